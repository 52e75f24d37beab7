"""Where defects are, by a COCO json."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from detectron2_agssp.evaluation.map_folder import evaluate_map_folder
from detectron2_agssp.evaluation.truth import CocoTruth, ground_truth

ENTRY = {"image": "line/a.png", "height": 20, "width": 40, "source": "line"}


def write_coco(path, labels, names=("test/line/a.png",)):
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": 0, **label} for i, label in enumerate(labels)],
        "categories": [{"id": 1, "name": "crack"}, {"id": 2, "name": "dent"}],
    }
    path.write_text(json.dumps(content))
    return path


def box(x, y, w, h, category=1):
    return {"bbox": [x, y, w, h], "category_id": category}


def test_boxes(tmp_path):
    """Their union, cut at the image's border; the class of most of them."""
    labels = [box(2, 3, 5, 4), box(30, 10, 20, 20, 2), box(4, 5, 4, 4, 2)]
    name, mask = CocoTruth(write_coco(tmp_path / "c.json", labels))(ENTRY)
    expected = np.zeros((20, 40), bool)
    expected[3:7, 2:7] = expected[10:, 30:] = expected[5:9, 4:8] = True
    assert name == "dent"
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("kind", ["polygon", "rle", "compressed"])
def test_masks_are_better_than_boxes(tmp_path, kind):
    shape = np.zeros((20, 40), np.uint8, order="F")
    shape[5:15, 10:30] = 1
    encoded = coco_masks.encode(shape)
    segmentation = {
        "polygon": [[10, 5, 30, 5, 30, 15, 10, 15]],
        "rle": {"size": [20, 40], "counts": [205, *[10, 10] * 19, 10, 205]},
        "compressed": {"size": [20, 40], "counts": encoded["counts"].decode()},
    }[kind]
    label = {**box(0, 0, 40, 20), "segmentation": segmentation}
    _, mask = CocoTruth(write_coco(tmp_path / "c.json", [label]))(ENTRY)
    np.testing.assert_array_equal(mask, shape.astype(bool))


def test_images_without_labels_are_left_out(tmp_path):
    truth = CocoTruth(write_coco(tmp_path / "c.json", [box(0, 0, 4, 4)]))
    assert truth({**ENTRY, "image": "other.png"}) is None
    assert truth({**ENTRY, "image": "ne/a.png"}) is None, "half a folder's name is no match"
    assert CocoTruth(write_coco(tmp_path / "d.json", []))(ENTRY) is None


def test_names_that_could_be_two_images(tmp_path):
    path = write_coco(tmp_path / "c.json", [box(0, 0, 4, 4)], ("x/line/a.png", "y/line/a.png"))
    with pytest.raises(ValueError, match=r"2 images whose file_name ends in 'line/a\.png'"):
        CocoTruth(path)(ENTRY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"images": [{}]}',
        '{"images": [{}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [{"image_id": 1}], "categories": []}',
        '{"images": [], "annotations": [], "categories": [1]}',
        '{"images": [], "annotations": {}, "categories": []}',
    ],
)
def test_no_coco(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json is not (a COCO )?json"):
        ground_truth(tmp_path / "c.json")


def test_a_map_folder_against_boxes(tmp_path, write_maps):
    anomaly_map = np.zeros((20, 40))
    anomaly_map[3:7, 2:7] = 1
    maps = write_maps(tmp_path / "maps", {"line/a.png": anomaly_map})
    path = write_coco(tmp_path / "c.json", [box(2, 3, 5, 4)])
    table = evaluate_map_folder(maps, path, size=0)
    assert table["crack"] == {"auroc": 1, "ap": 1, "f1_max": 1, "aupro": 1, "images": 1}
    with pytest.raises(ValueError, match="matched by the end of their file_name"):
        evaluate_map_folder(write_maps(tmp_path / "m", {"b.png": anomaly_map}), path)
