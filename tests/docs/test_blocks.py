"""Every code block of the documentation is run or, where that takes a shell, checked."""

import pytest

from tests.docs.blocks import PAGES, commands, read_blocks
from tests.tiny_models import ROOT

LANGUAGES = {"python", "bash", "yaml", "bibtex", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_of_known_languages(page):
    for block in read_blocks(page):
        if not block.language.startswith("{"):
            assert block.language in LANGUAGES, f"{block.name}: name the language, or 'text'"


def test_commands_are_told_apart():
    text = "# a comment\nagssp maps A B \\\n    X.Y '1 2'  # more\nmake test && cd x\n"
    assert commands(text) == [
        ["agssp", "maps", "A", "B", "X.Y", "1 2"],
        ["make", "test"],
        ["cd", "x"],
    ]


def test_blocks_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- file: x.yaml -->\n```yaml\na: 1\n```\n\n- b\n  ```bash\n  ls\n  ```\n")
    first, second = read_blocks(page)
    assert first[1:] == (3, "yaml", "a: 1\n", "file", "x.yaml")
    assert second[1:] == (8, "bash", "ls\n", "", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [("```bash\nls\n", "not closed"), ("<!-- not run: -->\n```bash\n```\n", "says nothing")],
)
def test_bad_pages_are_refused(tmp_path, text, message):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_blocks(tmp_path / "page.md")
