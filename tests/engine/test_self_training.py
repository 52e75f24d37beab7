"""A further round of AGDP: which detections it learns, and that a killed run goes on with them."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from detectron2_agssp.data.unlabeled import register_boxes, register_unlabeled
from detectron2_agssp.engine import self_training, stages
from detectron2_agssp.engine.self_training import detected_boxes
from detectron2_agssp.engine.stages import training_config
from detectron2_agssp.io.coco import write_coco
from detectron2_agssp.io.config_files import config_path
from tests.benchmarks.few_label.tiny_benchmark import DETECTOR
from tests.tiny_data import HEIGHT, MAPS, WIDTH, write_datasets

pytestmark = pytest.mark.usefixtures("empty_catalogs")

AGDP = {**DETECTOR, "SOLVER.MAX_ITER": 2, "AGSSP.TIMM.WEIGHTS": ""}


@pytest.fixture
def folder(tmp_path):
    root = write_datasets(tmp_path / "datasets", num_images=4)
    images, maps = root / "neu_det" / "images", root / "agssp" / MAPS
    register_unlabeled("tiny", images, maps)
    return images, maps


def agdp_config(output):
    return training_config(
        config_path("agdp/faster_rcnn_lite0_fpn.yaml"),
        output,
        "tiny_boxes",
        weights="",
        common=AGDP,
    )


class Finds(nn.Module):
    """Finds as many boxes in an image as its number, scores falling from 0.9 less a tenth of it; or
    at most so many."""

    def __init__(self, most: int = 10):
        super().__init__()
        self.most = most

    def forward(self, inputs):
        outputs = []
        for image in inputs:
            number = min(self.most, int(image["image_id"].partition(".")[0]))
            found = Instances((HEIGHT, WIDTH))
            corners = torch.arange(number).float()[:, None] + torch.tensor([1.0, 2.0, 11.0, 22.0])
            found.pred_boxes = Boxes(corners)
            found.scores = 0.9 - 0.1 * number - 0.01 * torch.arange(number)
            found.pred_classes = torch.zeros(number, dtype=torch.int64)
            outputs.append({"instances": found})
        return outputs


@pytest.fixture
def detector(monkeypatch):
    monkeypatch.setattr(self_training, "load_trained", lambda cfg, weights: Finds())


def test_the_best_of_all_images(folder, detector, tmp_path):
    coco = detected_boxes(agdp_config(tmp_path), "weights", "tiny", 1.0, progress=False)
    # 0 + 1 + 2 + 3 boxes were found, and of four images four are wanted: of the third the best.
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert sorted(names.values()) == ["0.png", "1.png", "2.png", "3.png"]
    assert [names[box["image_id"]] for box in coco["annotations"]] == ["1.png"] + 2 * ["2.png"] + [
        "3.png"
    ]
    first = coco["annotations"][0]
    assert first["bbox"] == [1, 2, 10, 20]
    assert first["score"] == 0.8
    assert first["category_id"] == 1
    assert all((image["height"], image["width"]) == (HEIGHT, WIDTH) for image in coco["images"])


def test_fewer_where_fewer_are_found(folder, detector, tmp_path):
    coco = detected_boxes(agdp_config(tmp_path), "weights", "tiny", 10, progress=False)
    assert len(coco["annotations"]) == 6


def test_a_detector_that_finds_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(self_training, "load_trained", lambda cfg, weights: Finds(most=0))
    with pytest.raises(ValueError, match="finds nothing on its own 4 images"):
        detected_boxes(agdp_config(tmp_path), "weights", "tiny", 1.0, progress=False)


def test_images_with_the_boxes_of_a_file(folder, tmp_path):
    images, maps = folder
    path = tmp_path / "boxes.json"
    content = {
        "images": [
            {"id": 7, "file_name": "2.png", "height": HEIGHT, "width": WIDTH},
            {"id": 8, "file_name": "0.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12}
        ],
        "categories": [{"id": 1, "name": "anomaly"}],
    }
    write_coco(path, content)
    register_boxes("boxes", images, maps, path)
    dicts = DatasetCatalog.get("boxes")
    assert [entry["image_id"] for entry in dicts] == ["0.png", "2.png"]
    assert [len(entry["annotations"]) for entry in dicts] == [0, 1]
    # What balances sources needs them.
    assert {entry["source"] for entry in dicts} == {"tiny"}
    (box,) = dicts[1]["annotations"]
    assert (box["bbox"], box["category_id"]) == ([1, 2, 3, 4], 0)


def test_a_round_learns_what_was_found(folder, tmp_path, monkeypatch):
    images, maps = folder
    first = tmp_path / "first"
    stages.train_on_maps(agdp_config(first), images, maps, progress=False)
    found = []

    def finds(cfg, weights, *args, **kwargs):
        found.append(weights)
        return detected_boxes(cfg, weights, *args, **kwargs)

    monkeypatch.setattr(stages, "detected_boxes", finds)
    second = agdp_config(tmp_path / "second")
    weights = stages.train_on_detections(second, images, maps, first, 1.0, progress=False)
    assert weights.is_file()
    assert found == [first / "model_final.pth"]
    coco = json.loads((tmp_path / "second" / "boxes.json").read_text())
    # As many as the maps of four images with a defect each gave.
    assert len(coco["annotations"]) == 4
    dicts = DatasetCatalog.get("tiny_detected")
    boxes = [box["bbox"] for entry in dicts for box in entry["annotations"]]
    assert np.allclose(sorted(boxes), sorted(box["bbox"] for box in coco["annotations"]))
    # Interrupted after the detections were written, it does not look again.
    (tmp_path / "second" / "finished.json").unlink()
    stages.train_on_detections(second, images, maps, first, 1.0, progress=False)
    assert len(found) == 1
