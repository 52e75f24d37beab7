"""The threshold of the best F1, against trying every score; and when it is stored with a run."""

import json
from collections import OrderedDict

import numpy as np
import pytest

from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.evaluation.operating_point import (
    best_operating_point,
    store_threshold,
    stored_threshold,
)
from detectron2_agssp.io.coco import coco_annotation
from detectron2_agssp.utils.box_matching import coco_iou, match_boxes
from tests.engine.test_averaging import yolo_trainer
from tests.tiny_data import write_datasets


def result(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def labels(*rows, **more):
    """(image, category, XYWH) of each."""
    annotations = [coco_annotation(n, *row, **more) for n, row in enumerate(rows, start=1)]
    return {"annotations": annotations}


def f1_at(coco, results, threshold):
    """By matching anew what has such a score."""
    correct = count = 0
    kept = sorted((r for r in results if r["score"] >= threshold), key=lambda r: -r["score"])
    for cell in {(r["image_id"], r["category_id"]) for r in kept}:
        mine, theirs = (
            [np.add(e["bbox"], [0, 0, *e["bbox"][:2]]) for e in entries if cell_of(e) == cell]
            for entries in (kept, coco["annotations"])
        )
        is_crowd = np.zeros(len(theirs), bool)
        iou = coco_iou(np.reshape(mine, (-1, 4)), np.reshape(theirs, (-1, 4)), is_crowd)
        correct += match_boxes(iou, is_crowd, 0.5)[0].sum()
        count += len(mine)
    return 2 * correct / (count + len(coco["annotations"]))


def cell_of(entry):
    return entry["image_id"], entry["category_id"]


@pytest.mark.parametrize("seed", range(5))
def test_no_other_score_is_better(seed):
    rng = np.random.default_rng(seed)
    rows = [
        (i, int(rng.integers(2)), [*rng.uniform(0, 90, 2), 12, 12]) for i in range(5) for _ in "abc"
    ]
    coco = labels(*rows)
    # Right ones score higher in the mean; scores of one decimal are often equal.
    results = []
    for image, category, box in rows * 2:
        shift = rng.normal(0, 5)
        score = round(float(np.clip(0.6 - abs(shift) / 20 + rng.normal(0, 0.15), 0, 1)), 1)
        results.append(result(image, category, np.add(box, [shift, 0, 0, 0]), score))
    point = best_operating_point(coco, results)
    tried = {score: f1_at(coco, results, score) for score in {r["score"] for r in results}}
    assert point.f1 == pytest.approx(max(tried.values()))
    assert f1_at(coco, results, point.threshold) == pytest.approx(point.f1)


def test_half_way_to_the_next_score():
    coco = labels((1, 1, [0, 0, 10, 10]), (2, 1, [0, 0, 10, 10]))
    right = [result(1, 1, [0, 0, 10, 10], 0.9), result(2, 1, [0, 0, 10, 10], 0.6)]
    wrong = [result(3, 1, [0, 0, 10, 10], 0.2), result(1, 2, [0, 0, 10, 10], 0.1)]
    point = best_operating_point(coco, [*wrong, *right])
    assert (point.threshold, point.f1) == (pytest.approx(0.4), 1.0)
    assert best_operating_point(coco, right).threshold == pytest.approx(0.6)


def test_boxes_on_a_crowd_do_not_count():
    crowd = labels((1, 1, [50, 50, 40, 40]), iscrowd=1)["annotations"]
    coco = {"annotations": [*labels((1, 1, [0, 0, 10, 10]))["annotations"], *crowd]}
    results = [result(1, 1, [60, 60, 10, 10], 0.95), result(1, 1, [0, 0, 10, 10], 0.5)]
    assert best_operating_point(coco, results).f1 == 1.0


def test_where_nothing_is_right():
    coco = labels((1, 1, [0, 0, 10, 10]))
    assert best_operating_point(coco, []) is None
    assert best_operating_point(coco, [result(1, 1, [50, 50, 9, 9], 0.9)]) is None
    assert best_operating_point({"annotations": []}, [result(1, 1, [5, 5, 9, 9], 0.9)]) is None


# ---- stored with a run


@pytest.mark.parametrize(
    ("settings", "weights", "threshold"),
    [
        # Evaluated after 2, 4, 6 and 8 iterations; the second is the best.
        ({"AGSSP.SOLVER.BEST_METRIC": "bbox/AP"}, "model_best.pth", 0.2),
        ({}, "model_final.pth", 0.4),
    ],
)
def test_a_training_stores_that_of_its_weights(
    tmp_path, empty_catalogs, monkeypatch, settings, weights, threshold
):
    register_builtin_datasets(write_datasets(tmp_path / "datasets"))
    precisions = [1.0, 3.0, 2.0, 2.5]
    calls = []

    def test(cfg, model):
        calls.append(len(calls))
        figures = {"AP": precisions[len(calls) - 1], "F1": 50.0, "F1-threshold": len(calls) / 10}
        return OrderedDict(bbox=figures)

    monkeypatch.setattr(AGSSPTrainer, "test", staticmethod(test))
    yolo_trainer(tmp_path, **{"SOLVER.MAX_ITER": 8}, **settings).train()
    assert len(calls) == 4
    output = tmp_path / "output"
    assert stored_threshold(output / weights) == threshold
    stored = json.loads((output / "threshold.json").read_text())
    assert (stored["data"], stored["f1"]) == ("neu_det_test", 50.0)
    other = {"model_best.pth": "model_final.pth", "model_final.pth": "model_0000003.pth"}[weights]
    assert stored_threshold(output / other) is None


def test_a_stored_threshold_is_that_of_its_weights_only(tmp_path):
    weights = tmp_path / "model_final.pth"
    assert stored_threshold(weights) is None
    weights.write_bytes(b"1")
    store_threshold(weights, threshold=0.25, f1=50.0, data="mine")
    assert stored_threshold(weights) == 0.25
    weights.write_bytes(b"2")
    assert stored_threshold(weights) is None
    (tmp_path / "threshold.json").write_text('{"threshold": 3}')
    with pytest.raises(ValueError, match=r"threshold\.json is damaged: .* Delete it"):
        stored_threshold(weights)
