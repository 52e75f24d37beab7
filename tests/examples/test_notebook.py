"""The notebook runs from its first cell to its last, and is committed without outputs."""

import json

import matplotlib

from tests.tiny_models import ROOT

NOTEBOOK = ROOT / "examples" / "agssp.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_outputs_are_stripped():
    assert code_cells()
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells())


def test_cells_run_in_order(tmp_path, monkeypatch, empty_catalogs):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(), start=1):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), namespace)
    pretrained = namespace["pretrained"]
    assert pretrained.weights.is_file()
    assert pretrained.backbone.is_file()
