"""Confusions, misses and false alarms, each placed by hand."""

import numpy as np

from detectron2_agssp.evaluation.mistakes import find_mistakes


def entry(image, category, x, score=None, size=10, **more):
    box = {"image_id": image, "category_id": category, "bbox": [x, 0, size, size]}
    return box | more | ({} if score is None else {"score": score})


LABELS = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 4, "name": "pit"}, {"id": 8, "name": "scratch"}],
    "annotations": [
        entry(1, 4, 0, id=1),
        entry(1, 8, 20, id=2),
        entry(1, 8, 40, id=3),
        entry(2, 4, 0, id=4, size=20),
        entry(2, 4, 60, id=5),
        entry(2, 8, 80, id=6, iscrowd=1),
    ],
}
RESULTS = [
    entry(1, 4, 1, 0.9),  # right
    entry(1, 4, 1, 0.8),  # a second one of the same label
    entry(1, 4, 21, 0.7),  # a scratch as a pit
    entry(1, 8, 41, 0.3),  # below the threshold
    entry(2, 8, 100, 0.95),  # on nothing
    entry(2, 8, 80, 0.6),  # on a crowd
]


def test_each_mistake_is_found():
    mistakes = find_mistakes(LABELS, RESULTS, 0.5)
    expected = [[1, 0, 2], [1, 0, 1], [1, 1, 0]]
    np.testing.assert_array_equal(mistakes.confusion, expected)
    assert [found["score"] for found in mistakes.false_alarms] == [0.95, 0.8]
    # Without any score first, the larger before the smaller; then the one seen at 0.3.
    assert [label["id"] for label in mistakes.misses] == [4, 5, 3]


def test_rows_are_the_labels_and_columns_the_detections():
    mistakes = find_mistakes(LABELS, RESULTS, 0.2)
    assert mistakes.confusion[:2].sum(axis=1).tolist() == [3, 2]
    assert mistakes.confusion[:, :2].sum() == 5
    assert [label["id"] for label in mistakes.misses] == [4, 5]


def test_no_detection():
    mistakes = find_mistakes(LABELS, [], 0.5)
    np.testing.assert_array_equal(mistakes.confusion, [[0, 0, 3], [0, 0, 2], [0, 0, 0]])
    assert not mistakes.false_alarms
