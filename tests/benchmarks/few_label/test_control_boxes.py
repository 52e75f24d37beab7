"""Boxes that are no pseudo-boxes of the image, and AGDP on them."""

import json
from itertools import chain

import numpy as np
import pytest
import torch

from benchmarks.few_label.control_boxes import dose_of_labels, label_boxes, shuffled_boxes
from benchmarks.few_label.training import Workspace
from detectron2_agssp.boxes.coco_export import pseudo_boxes_as_coco
from detectron2_agssp.io.coco import check_coco_json
from detectron2_agssp.io.images import list_images
from tests.tiny_models import CONFIGS

SIZES = {"a.png": (60, 160), "line/b.jpg": (180, 40), "none.bmp": (60, 80)}


@pytest.fixture
def folder(write_maps, tmp_path):
    """A box in the left half of a wide image, one in the lower half of a tall one, no third."""
    maps = {name: np.zeros((6, 8), np.float32) for name in SIZES}
    maps["a.png"][1:5, :4] = 0.8
    maps["line/b.jpg"][3:] = 1.0
    return write_maps(tmp_path / "maps", maps, SIZES)


def boxes_by_image(coco: dict) -> dict[str, list]:
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    found = {name: [] for name in names.values()}
    for annotation in coco["annotations"]:
        found[names[annotation["image_id"]]].append(annotation["bbox"])
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_image_has_the_boxes_of_another_at_its_own_scale(seed, folder, tiny_cfg):
    coco = shuffled_boxes(tiny_cfg, folder, seed)
    own = boxes_by_image(pseudo_boxes_as_coco(tiny_cfg, folder, progress=False))
    assert sum(map(len, own.values())) == 2

    def relative(boxes: list, name: str) -> np.ndarray:
        height, width = SIZES[name]
        return np.array(boxes).reshape(-1, 4) / (width, height, width, height)

    givers = {}
    for name, boxes in boxes_by_image(coco).items():
        for giver, given in own.items():
            expected = relative(given, giver)
            if len(expected) == len(boxes) and np.allclose(relative(boxes, name), expected):
                givers[name] = giver
    assert sorted(givers.values()) == sorted(SIZES)
    assert all(name != giver for name, giver in givers.items())
    for annotation in coco["annotations"]:
        assert annotation["area"] == pytest.approx(annotation["bbox"][2] * annotation["bbox"][3])


def test_a_single_image_keeps_its_own(write_maps, tiny_cfg, tmp_path):
    one = write_maps(tmp_path / "one", {"a.png": np.pad(np.ones((20, 20), np.float32), 6)})
    expected = pseudo_boxes_as_coco(tiny_cfg, one, progress=False)["annotations"]
    assert len(expected) == 1
    assert shuffled_boxes(tiny_cfg, one)["annotations"] == expected


@pytest.fixture
def labels(tmp_path):
    """Of two of the folder's images, and of one that it does not have."""
    names = ["a.png", "none.bmp", "other.png"]
    content = {
        "images": [
            {"id": 10 + i, "file_name": name, "height": 60, "width": 160 - 80 * (i == 1)}
            for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1.5, 2, 30, 40]},
            {"id": 2, "image_id": 10, "category_id": 8, "bbox": [5, 6, 7, 8], "iscrowd": 1},
            {"id": 3, "image_id": 12, "category_id": 8, "bbox": [5, 6, 7, 8]},
        ],
        "categories": [{"id": 7, "name": "crack"}, {"id": 8, "name": "pit"}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    return path


def test_labels_become_one_class(folder, labels, tmp_path):
    coco = label_boxes(folder, labels)
    assert boxes_by_image(coco) == {"a.png": [[1.5, 2, 30, 40], [5, 6, 7, 8]], "none.bmp": []}
    assert {one["category_id"] for one in coco["annotations"]} == {1}
    assert [one["iscrowd"] for one in coco["annotations"]] == [0, 1]
    assert [one["area"] for one in coco["annotations"]] == [1200, 56]
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    assert check_coco_json(tmp_path / "boxes.json") == []


def test_labels_of_other_images_are_refused(folder, labels):
    content = json.loads(labels.read_text())
    for image in content["images"]:
        image["file_name"] = f"x{image['file_name']}"
    labels.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"None of the images of .*maps is in .*labels\.json"):
        label_boxes(folder, labels)


def test_a_dose_of_labels_stays(write_maps, tmp_path):
    names = [f"{i:02}.png" for i in range(60)]
    folder = write_maps(
        tmp_path / "maps",
        dict.fromkeys(names, np.zeros((4, 4), np.float32)),
        dict.fromkeys(names, (50, 50)),
    )
    content = {
        "images": [
            {"id": i, "file_name": one, "height": 50, "width": 50} for i, one in enumerate(names)
        ],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [i % 20, i % 17, 9, 5 + i % 7]}
            for i in range(60)
        ],
        "categories": [{"id": 1, "name": "pit"}],
    }
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(content))
    true = boxes_by_image(label_boxes(folder, labels))
    stay: dict[int, set[str]] = {}
    for percent in (100, 75, 50, 25, 0):
        boxes = boxes_by_image(dose_of_labels(folder, labels, percent))
        assert sorted(chain(*boxes.values())) == sorted(chain(*true.values()))
        stay[percent] = {name for name in names if true[name][0] in boxes[name]}
        assert len(stay[percent]) == pytest.approx(0.6 * percent, abs=10)
    assert len(stay[100]) == 60
    assert not stay[0]
    assert stay[25] < stay[50] < stay[75] < stay[100]


@pytest.mark.usefixtures("empty_catalogs")
def test_agdp_learns_the_boxes_that_its_variant_names(write_benchmark, tmp_path):
    agdp = {"SOLVER.MAX_ITER": 1}
    kinds = {
        "maps": {"arm": "agdp", "agdp": agdp},
        "shuffled": {"arm": "agdp", "agdp": agdp, "boxes": "shuffled"},
        "labels": {"arm": "agdp", "agdp": agdp, "boxes": "labels"},
        "dose": {"arm": "agdp", "agdp": agdp, "boxes": "labels_0"},
    }
    benchmark = write_benchmark(variants=kinds, arms=list(kinds))
    space = Workspace(benchmark, CONFIGS, tmp_path / "out", progress=False)
    space.data.prepare(tmp_path / "results", progress=False)
    runs = {kind: space.pretraining_of(kind) for kind in kinds}
    assert len({run.name for run in runs.values()}) == len(kinds)
    assert len({run.maps.name for run in runs.values()}) == 1
    space.make_maps(runs["maps"].maps)
    weights = {}
    for kind, run in runs.items():
        space.pretrain(run)
        content = torch.load(space.weights_of(run), weights_only=True)["model"]
        weights[kind] = content["roi_heads.box_predictor.bbox_pred.weight"]
    assert not torch.equal(weights["maps"], weights["shuffled"])
    assert not torch.equal(weights["maps"], weights["labels"])
    assert not torch.equal(weights["dose"], weights["labels"])
    folder = space.weights_of(runs["labels"]).parent
    boxes = json.loads((folder / "boxes.json").read_text())
    train = json.loads((benchmark.data.folder / benchmark.data.train).read_text())
    kept = {image["file_name"] for image in boxes["images"]}
    ids = {image["id"] for image in train["images"] if image["file_name"] in kept}
    expected = [one["bbox"] for one in train["annotations"] if one["image_id"] in ids]
    assert sorted(one["bbox"] for one in boxes["annotations"]) == sorted(expected)
    # Every image that pretraining may see, and no other.
    assert kept == set(list_images(space.data.unlabeled))
