"""The Python blocks of a page are run, in order, in a folder with a few tiny images and labels."""

import contextlib
import io

import pytest

from detectron2_agssp.engine import recipe
from tests.docs.blocks import PAGES, read_blocks
from tests.tiny_models import ROOT


def run_blocks(page, folder, slow: bool) -> None:
    namespace = {"__name__": "__main__"}
    for block in read_blocks(page):
        if block.marker == "file":
            (folder / block.argument).write_text(block.text)
        if block.language != "python" or block.marker == "not run":
            continue
        code = compile(block.text, block.name, "exec")
        if block.marker != "slow" or slow:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, namespace)


def pages_with(marker: str | None) -> list:
    """Pages with a Python block, of that marker if one is given."""
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any(
            block.language == "python" and marker in (None, block.marker)
            for block in read_blocks(page)
        )
    ]


@pytest.mark.parametrize("page", pages_with(None))
def test_python_blocks(page, work_folder, empty_catalogs):
    run_blocks(page, work_folder, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("slow"))
def test_slow_python_blocks(page, work_folder, empty_catalogs, monkeypatch):
    monkeypatch.setattr(recipe, "MIN_ITERATIONS", {"AGBP": 2, "AGDP": 2})
    run_blocks(page, work_folder, slow=True)
