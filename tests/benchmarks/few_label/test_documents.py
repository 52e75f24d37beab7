"""The generated tables in documents."""

import shutil
from pathlib import Path

import pytest

from benchmarks.few_label.documents import RESULTS, update_document

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *ROOT.glob("benchmarks/*.md")]


@pytest.fixture
def document(tmp_path):
    def write(words, inside="stale\n"):
        path = tmp_path / "page.md"
        path.write_text(
            f"Before\n<!-- generated: few_label {words} -->\n{inside}<!-- end -->\nAfter\n"
        )
        return path

    return write


def rows(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_committed_documents_show_the_committed_results(tmp_path):
    generated = [path for path in DOCUMENTS if "<!-- generated: few_label" in path.read_text()]
    assert ROOT / "docs/benchmark.md" in generated
    for path in generated:
        copy = shutil.copy(path, tmp_path)
        assert not update_document(copy), f"run python -m benchmarks.few_label --update-docs {path}"


def test_what_is_named_is_shown(document):
    path = document("neu_det_cpu 10 1 agssp agdp_rounds_unfrozen")
    assert update_document(path)
    assert not update_document(path), "once is enough"
    head, _, *body = rows(path)
    assert head == ["labels", "start", "AP", "AP50", "AP - ImageNet", "AP50 - ImageNet"]
    assert [row[:2] for row in body] == [
        ["1 % (12 images)", "AGDP, two rounds, unfrozen"],
        ["10 % (126 images)", "AGSSP"],
        ["", "AGDP, two rounds, unfrozen"],
    ]
    assert body[1][2:] == ["22.6 ± 1.5", "57.8 ± 1.9", "+0.5 ± 1.6", "**+2.8 ± 2.1**"]
    text = path.read_text()
    assert text.startswith("Before\n")
    assert text.endswith("<!-- end -->\nAfter\n")
    assert "stale" not in text


def test_all_is_shown_where_nothing_is_named(document):
    path = document("magnetic_tile_cpu")
    update_document(path)
    assert {row[1] for row in rows(path)} >= {"ImageNet", "AGSSP", "random"}


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("neu_det_cpu 10 agsp", ValueError, "neither a percentage nor an arm; the arms are random"),
        ("neu_det_cpu 50", ValueError, "no results of 50"),
        ("neu_det_cpu 1 random", ValueError, "no results of random"),
        ("absent", FileNotFoundError, r"absent\.yaml"),
    ],
)
def test_errors(document, words, error, message):
    path = document(words)
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        update_document(path, RESULTS)
    assert path.read_bytes() == before


def test_a_document_without_a_table(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("nothing")
    with pytest.raises(ValueError, match=r"page\.md has no table to generate"):
        update_document(path)
