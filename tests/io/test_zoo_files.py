"""``agssp://zoo/``, wherever Detectron2 reads a file."""

import fvcore.common.file_io
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import g_pathmgr
from torch import nn

from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.io import zoo_files
from detectron2_agssp.io.zoo_files import install_zoo_handler, zoo_path, zoo_root
from tests.tiny_models import CONFIGS, ROOT

MANAGERS = {
    "Detectron2": PathManager,
    "iopath": g_pathmgr,
    "fvcore": fvcore.common.file_io.PathManager,
}


@pytest.fixture
def zoo(tmp_path):
    """A zoo of two files that ``agssp://zoo/`` names during the test."""
    root = tmp_path / "zoo"
    root.mkdir()
    for number, name in enumerate(("detector.pth", "backbone.pth")):
        torch.save({"model": {"weight": torch.full((2, 3), float(number))}}, root / name)
    install_zoo_handler(root)
    yield root
    install_zoo_handler()


def test_it_lies_beside_the_package_in_a_checkout():
    assert zoo_root() == ROOT / "zoo"


@pytest.mark.parametrize("manager", MANAGERS.values(), ids=MANAGERS)
def test_path_managers(zoo, manager):
    assert manager.isfile("agssp://zoo/detector.pth")
    assert manager.exists("agssp://zoo/detector.pth")
    assert manager.isdir("agssp://zoo/")
    assert not manager.exists("agssp://zoo/nothing.pth")
    assert manager.ls("agssp://zoo/") == ["backbone.pth", "detector.pth"]
    assert manager.get_local_path("agssp://zoo/detector.pth") == str(zoo / "detector.pth")
    with manager.open("agssp://zoo/detector.pth", "rb") as file:
        assert file.read() == (zoo / "detector.pth").read_bytes()
    with pytest.raises(ValueError, match="can be read, not written"):
        manager.open("agssp://zoo/detector.pth", "wb")
    # The shipped configs are still beside it.
    assert manager.get_local_path("agssp://agbp/R50.yaml") == str(CONFIGS / "agbp" / "R50.yaml")


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
def test_detectron2_loads_it(zoo, query):
    model = nn.Linear(3, 2, bias=False)
    DetectionCheckpointer(model).load(f"agssp://zoo/backbone.pth{query}")
    assert model.weight.tolist() == [[1.0] * 3] * 2
    assert fetch_weights(f"agssp://zoo/backbone.pth{query}") == str(zoo / "backbone.pth") + query


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agssp://zoo/detektor.pth", "Did you mean agssp://zoo/detector.pth?"),
        ("x", "There are: agssp://zoo/backbone.pth, agssp://zoo/detector.pth."),
        ("agssp://zoo/../README.md", "leads out of the zoo"),
        ("/etc/passwd", "leads out of the zoo"),
    ],
)
def test_errors_name_the_nearest(zoo, name, message):
    with pytest.raises(FileNotFoundError, match=r"the zoo|There is no agssp://zoo/") as error:
        zoo_path(name, zoo)
    assert message in str(error.value)


def test_where_there_is_no_zoo_the_error_says_what_to_do(tmp_path, monkeypatch):
    module = tmp_path / "site-packages" / "detectron2_agssp" / "io" / "zoo_files.py"
    monkeypatch.setattr(zoo_files, "__file__", str(module))
    assert zoo_root() == tmp_path / "site-packages" / "zoo"
    for load in (fetch_weights, DetectionCheckpointer(nn.Linear(3, 2)).load, PathManager.open):
        with pytest.raises(FileNotFoundError) as error:
            load("agssp://zoo/detector.pth")
        assert str(error.value) == (
            "There is no agssp://zoo/detector.pth here: the zoo is the folder zoo of a checkout, "
            f"and {zoo_root()} has no weights. Fetch zoo/detector.pth from the project's "
            "repository, and name the file itself: MODEL.WEIGHTS /path/to/detector.pth"
        )
