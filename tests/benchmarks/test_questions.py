"""Plots of the open questions, from the tables as they are written."""

import pytest
from PIL import Image

from benchmarks import questions

TABLE = """
# Page

| other | a |
|---|---|
| x | 1 |

| start | small | large |
|---|:-:|---|
| ImageNet | 22.0 | 35.6 ± 0.1 |
| AGSSP | 23.8 | 35.8 |

| start | small |
|---|---|
| not this one | 1 |
"""


def test_the_first_table_of_that_name():
    table = questions.read_table(TABLE, "start")
    assert table == {
        "ImageNet": {"start": "ImageNet", "small": "22.0", "large": "35.6 ± 0.1"},
        "AGSSP": {"start": "AGSSP", "small": "23.8", "large": "35.8"},
    }


def test_no_such_table():
    with pytest.raises(ValueError, match="first column is 'class'"):
        questions.read_table(TABLE, "class")


def _heights(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def test_bars_are_what_the_page_says():
    page = questions.PAGE.read_text(encoding="utf-8")
    by_size, by_aspect = questions.draw_shapes(page).axes
    row = questions.read_table(page, "start")["ImageNet"]
    assert _heights(by_size)[:3] == [float(row[name]) for name in questions.SHAPES["by size"]]
    assert next(label.get_text() for label in by_aspect.get_xticklabels()).startswith(
        "aspect < 2\n(864"
    )


def test_the_better_rate_of_each_arm():
    neu, tile = questions.draw_quality(questions.FEW_LABEL).axes
    arms = questions.BOXES["NEU-DET, 10 %"][2]
    assert len(_heights(neu)) == 2 * len(arms)
    # AP of the withheld labels, the bound, at the better of two rates.
    assert _heights(neu)[len(arms) - 1] == max(_heights(neu)[: len(arms)])
    assert len(_heights(tile)) == 6


def test_sources_beside_their_start():
    corpus = questions.CORPUS.read_text(encoding="utf-8")
    row = questions.read_table(corpus, "AUROC of energies")["equal counts: 4 sources"]
    axes = questions.draw_diversity(corpus).axes[1]
    neu, *others = axes.containers
    assert len(others) == 2
    assert neu.lines[0].get_ydata()[2] == float(row["res5 NEU"].split("±")[0])


def test_the_same_bytes(tmp_path):
    page = questions.PAGE.read_text(encoding="utf-8")
    for name in ("a.png", "b.png"):
        questions.save(questions.draw_shapes(page), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height
