"""The Python blocks of a page are run, in order, in a folder with a few tiny images and labels."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.docs.blocks import PAGES, read_blocks
from tests.tiny_data import write_datasets
from tests.tiny_models import ROOT


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """images/, masks/, labels.json, and maps/ of the images; the labels and images also as my/.
    Not to be changed: copy it."""
    root = tmp_path_factory.mktemp("docs")
    made = write_datasets(root / "made")
    shutil.copytree(made / "neu_det" / "images", root / "images")
    shutil.copy(made / "neu_det" / "annotations" / "train.json", root / "labels.json")
    shutil.copytree(made / "agssp" / "tiny", root / "maps")
    (root / "masks").mkdir()
    for label in json.loads((root / "labels.json").read_text())["annotations"]:
        x, y, width, height = label["bbox"]
        mask = np.zeros((48, 64), np.uint8)
        mask[y : y + height, x : x + width] = 255
        Image.fromarray(mask).save(root / "masks" / f"{label['image_id'] - 1}.png")
    shutil.copytree(root / "images", root / "my" / "images")
    shutil.copy(root / "labels.json", root / "my" / "train.json")
    shutil.rmtree(root / "made")
    return root


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


def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", os.path.join(folder, "datasets"))
    return folder


@pytest.mark.parametrize("page", pages_with(None))
def test_python_blocks(page, sample, tmp_path, monkeypatch, empty_catalogs):
    folder = shutil.copytree(sample, tmp_path / "work")
    run_blocks(page, in_folder(folder, monkeypatch), slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("slow"))
def test_slow_python_blocks(page, sample, tmp_path, monkeypatch, empty_catalogs):
    folder = shutil.copytree(sample, tmp_path / "work")
    run_blocks(page, in_folder(folder, monkeypatch), slow=True)
