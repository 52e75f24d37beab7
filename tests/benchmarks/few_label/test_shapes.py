"""AP by the shape of the defects."""

import json
import math

import pytest
from pycocotools.coco import COCO

from benchmarks.few_label.shapes import GROUPINGS, ap_by_group, relative_size, shapes_text

SQUARE, LONG = [10, 10, 20, 20], [50, 10, 8, 80]


def coco_of(boxes):
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "crack"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": 0}
            for i, box in enumerate(boxes, 1)
        ],
    }


def truth_of(boxes):
    truth = COCO()
    truth.dataset = coco_of(boxes)
    truth.createIndex()
    return truth


def predictions_of(boxes):
    return [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]


def test_what_belongs_to_another_group_counts_neither_way():
    measure, groups = GROUPINGS["aspect"]
    # The long defect is found, the square one is not, and a long detection is false.
    found = ap_by_group(
        truth_of([SQUARE, LONG]), predictions_of([LONG, [80, 10, 8, 80]]), measure, groups
    )
    assert found["< 2"] == 0
    assert found["> 4"] == pytest.approx(100)
    assert math.isnan(found["2 to 4"])
    assert 0 < found[""] < 100


def test_size_is_relative_to_the_image():
    assert relative_size([0, 0, 20, 20], (100, 100)) == pytest.approx(0.2)
    assert relative_size([0, 0, 20, 20], (200, 50)) == pytest.approx(0.2)


@pytest.fixture
def finished(write_benchmark, tmp_path):
    """A benchmark, its output and its results: one cell, whose detections are the labels."""
    benchmark = write_benchmark(fractions=[10])
    output, results = tmp_path / "output", tmp_path / "results"
    inference = output / "runs" / "imagenet_10pct_draw0_seed1_lr0.01" / "test" / "inference"
    for folder in (inference, results / "cells", output / "data"):
        folder.mkdir(parents=True)
    (output / "data" / "test.json").write_text(json.dumps(coco_of([SQUARE, LONG])))
    (inference / "coco_instances_results.json").write_text(
        json.dumps(predictions_of([SQUARE, LONG]))
    )
    cell = {"arm": "imagenet", "fraction": 10, "draw": 0, "seed": 1, "learning_rate": 0.01}
    (results / "cells" / "a.json").write_text(json.dumps({**cell, "test": {"AP": 100.0}}))
    return benchmark, output, results


def test_a_line_per_arm_and_share(finished):
    text = shapes_text(*finished)
    assert (
        "| 10 %     | ImageNet | 1       | nan         | 100.0            | nan         |" in text
    )
    assert "< 2 (1)" in text
    assert "> 4 (1)" in text


def test_predictions_that_are_not_the_cells_are_refused(finished):
    benchmark, output, results = finished
    path = results / "cells" / "a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test": {"AP": 50.0}}))
    with pytest.raises(ValueError, match=r"does not give the AP of its cell, 50\.0"):
        shapes_text(benchmark, output, results)


def test_no_predictions_are_named(finished, tmp_path):
    benchmark, _, results = finished
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "data" / "test.json").write_text(json.dumps(coco_of([SQUARE])))
    with pytest.raises(FileNotFoundError, match="no predictions of tiny"):
        shapes_text(benchmark, other, results)
