"""The folder that the documentation's commands and code run in."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.inference.runs import write_run
from tests.tiny_data import HEIGHT, WIDTH, write_datasets


@pytest.fixture(scope="package")
def sample(tmp_path_factory):
    """images/, masks/, labels.json, and maps/ of the images, and the run/ of a detector; the labels
    and images also as my/; datasets/ as $DETECTRON2_DATASETS. Not to be changed: copy it."""
    root = tmp_path_factory.mktemp("docs")
    made = write_datasets(root / "datasets")
    shutil.copytree(made / "neu_det" / "images", root / "images")
    shutil.copy(made / "neu_det" / "annotations" / "train.json", root / "labels.json")
    shutil.copytree(made / "agssp" / "tiny", root / "maps")
    (root / "masks").mkdir()
    for label in json.loads((root / "labels.json").read_text())["annotations"]:
        x, y, width, height = label["bbox"]
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[y : y + height, x : x + width] = 255
        Image.fromarray(mask).save(root / "masks" / f"{label['image_id'] - 1}.png")
    write_run(root / "run")
    shutil.copytree(root / "images", root / "my" / "images")
    shutil.copy(root / "labels.json", root / "my" / "train.json")
    return root


@pytest.fixture
def work_folder(sample, tmp_path, monkeypatch):
    """A copy of the sample, which is the working folder of the test."""
    folder = shutil.copytree(sample, tmp_path / "work")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    return folder
