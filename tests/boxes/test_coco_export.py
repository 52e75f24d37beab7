"""The pseudo-boxes of a folder as COCO json."""

import json

import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json

from detectron2_agssp.boxes import boxes_from_map
from detectron2_agssp.boxes.coco_export import write_pseudo_boxes
from detectron2_agssp.boxes.threshold import box_threshold
from detectron2_agssp.io.coco import check_coco_json
from detectron2_agssp.maps import load_map


@pytest.fixture
def folder(write_maps, tmp_path):
    """Two blobs in a wide image, one in a tall one, none in the third."""
    maps = {name: np.zeros((6, 8), np.float32) for name in ("b.png", "line/a.jpg", "none.bmp")}
    maps["b.png"][1, 1:3] = 0.8
    maps["b.png"][4, 6] = 0.9
    maps["line/a.jpg"][3, 4] = 1.0
    sizes = {"b.png": (60, 160), "line/a.jpg": (180, 40), "none.bmp": (60, 80)}
    return write_maps(tmp_path / "maps", maps, sizes)


def test_content(folder, tiny_cfg, tmp_path):
    (folder / "scorer.json").write_text(json.dumps({"image_root": "/images"}))
    content = write_pseudo_boxes(tiny_cfg, folder, tmp_path / "out/boxes.json")
    assert json.loads((tmp_path / "out/boxes.json").read_text()) == content
    assert content["info"]["image_root"] == "/images"
    assert (
        content["info"]["threshold"] == box_threshold(folder) == pytest.approx(1.9 / 3 - 0.1, 1e-3)
    )
    assert content["categories"] == [{"id": 1, "name": "anomaly"}]
    images = [(e["file_name"], e["height"], e["width"]) for e in content["images"]]
    assert images == [("b.png", 60, 160), ("line/a.jpg", 180, 40), ("none.bmp", 60, 80)]
    assert [e["image_id"] for e in content["annotations"]] == [1, 1, 2]
    assert [e["id"] for e in content["annotations"]] == [1, 2, 3]
    boxes, scores = boxes_from_map(
        load_map(folder / "maps/b.png.npy"), 60, 160, content["info"]["threshold"]
    )
    for (x0, y0, x1, y1), score, entry in zip(boxes, scores, content["annotations"], strict=False):
        assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert entry["area"] == (x1 - x0) * (y1 - y0)
        assert entry["score"] == pytest.approx(score, abs=1e-5)


def test_detectron2_and_the_coco_check_read_it(folder, tiny_cfg, tmp_path):
    write_pseudo_boxes(tiny_cfg, folder, tmp_path / "boxes.json")
    dicts = load_coco_json(str(tmp_path / "boxes.json"), "/images")
    assert [len(one["annotations"]) for one in dicts] == [2, 1, 0]
    assert dicts[1]["file_name"] == "/images/line/a.jpg"
    assert check_coco_json(tmp_path / "boxes.json") == []


def test_settings(folder, tiny_cfg, tmp_path):
    tiny_cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    tiny_cfg.AGSSP.BOXES.THRESHOLD = 0.85
    content = write_pseudo_boxes(tiny_cfg, folder, tmp_path / "boxes.json")
    assert content["info"]["threshold"] == 0.85
    tiny_cfg.AGSSP.BOXES.THRESHOLD = 0.3
    tiny_cfg.AGSSP.BOXES.MAX_BOXES = 1
    content = write_pseudo_boxes(tiny_cfg, folder, tmp_path / "boxes.json")
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 2]


def test_thresholds_by_source_are_named(folder, tiny_cfg, tmp_path):
    tiny_cfg.AGSSP.BOXES.PER_SOURCE = True
    content = write_pseudo_boxes(tiny_cfg, folder, tmp_path / "boxes.json")
    # The maxima are 0.9 and 0, and 1.
    expected = {"images": 0.35, "line": 0.9}
    assert content["info"]["thresholds"] == pytest.approx(expected, abs=1e-3)
    assert content["info"]["threshold"] == pytest.approx(0.625, abs=1e-3)
    assert json.loads((tmp_path / "boxes.json").read_text()) == content
