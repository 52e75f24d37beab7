"""AP per class: pycocotools' numbers, and intervals that hold them."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectron2_agssp.evaluation.class_precision import class_precisions


def labels_and_results(seed=0, num_images=30):
    """Two classes with labels, one without; boxes near labels, some far, scores in steps."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": i + 7, "file_name": f"{i}.png", "height": 100, "width": 100}
        for i in range(num_images)
    ]
    categories = [{"id": 3, "name": "pit"}, {"id": 5, "name": "scratch"}, {"id": 9, "name": "none"}]
    annotations, results = [], []
    for image in images:
        for category in (3, 5):
            for _ in range(rng.integers(0, 4)):
                box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
                crowd = int(rng.random() < 0.1)
                entry = {"image_id": image["id"], "category_id": category, "bbox": box}
                area = box[2] * box[3]
                number = len(annotations) + 1
                annotations.append({"id": number, "area": area, "iscrowd": crowd, **entry})
                if rng.random() < 0.8:
                    moved = (np.array(box) + rng.normal(0, 3, 4)).tolist()
                    results.append({**entry, "bbox": moved, "score": float(rng.random())})
        far = {
            "image_id": image["id"],
            "category_id": int(rng.choice([3, 5])),
            "bbox": [1, 1, 9, 9],
        }
        results.append({**far, "score": float(rng.random())})
    return {"images": images, "annotations": annotations, "categories": categories}, results


def coco_ap(labels, results, category) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = labels
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0], 100 * evaluation.stats[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_as_pycocotools(seed):
    labels, results = labels_and_results(seed)
    rows = class_precisions(labels, results, draws=100)
    assert [row.name for row in rows] == ["pit", "scratch", "none", "all"]
    for row, category in zip(rows, (3, 5), strict=False):
        assert (row.ap, row.ap50) == pytest.approx(coco_ap(labels, results, category), abs=1e-6)
        assert row.low < row.ap < row.high
    assert np.isnan([rows[2].ap, rows[2].low]).all()
    assert rows[2].labels == 0
    assert rows[3].ap == pytest.approx((rows[0].ap + rows[1].ap) / 2)
    assert rows[3].low < rows[3].ap < rows[3].high


def test_intervals_narrow_with_images():
    few, many = (
        class_precisions(*labels_and_results(num_images=count), draws=100)[-1] for count in (10, 90)
    )
    assert many.high - many.low < 0.7 * (few.high - few.low)


def test_nothing_found():
    labels, _ = labels_and_results()
    rows = class_precisions(labels, [], draws=10)
    assert (rows[0].ap, rows[0].low, rows[0].high) == (0, 0, 0)
