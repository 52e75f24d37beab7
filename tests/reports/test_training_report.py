"""The page at the end of a training, of a detector that has hardly learned anything."""

import re

import cv2
import numpy as np

from detectron2_agssp.reports import training_report


def test_a_hundred_false_alarms_are_counted_and_the_strongest_drawn(tmp_path, monkeypatch):
    drawn = []

    def draw_boxes(image, boxes, labels=None, **options):
        drawn.append(list(labels or []))
        return image

    monkeypatch.setattr(training_report, "draw_boxes", draw_boxes)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 100), 90, np.uint8))
    label = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [60, 60, 30, 30], "area": 900}
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}],
        "annotations": [{**label, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "pit"}, {"id": 2, "name": "dent"}],
    }
    # Of a hundred, the strongest is no false alarm.
    results = [{"image_id": 1, "category_id": 1, "bbox": label["bbox"], "score": 0.99}]
    for number in range(99):
        box = [number / 4, number / 4, 20, 20]
        kind, score = 1 + number % 3 // 2, 0.9 - number / 1000
        results.append({"image_id": 1, "category_id": kind, "bbox": box, "score": score})
    page = training_report.write_training_report(
        tmp_path / "report.html",
        values={},
        records=[],
        labels=labels,
        results=results,
        image_root=tmp_path,
        threshold=0.5,
    )
    captions = re.findall(r"<figcaption>(a\.png[^<]*)", page.read_text(encoding="utf-8"))
    assert captions == ["a.png: 66 pit, 33 dent"]
    (found,) = (texts for texts in drawn if texts)
    assert len(found) == training_report.NUM_BOXES
    assert found[:3] == ["pit 0.90", "pit 0.90", "dent 0.90"]
    assert "pit 0.99" not in found
