"""Boxes of one map: golden numbers, an independent implementation, and the rule's corners."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from detectron2_agssp.boxes import boxes_from_map
from detectron2_agssp.boxes.components import resize_map

EIGHT = np.ones((3, 3))


def test_golden(golden):
    archive = np.load(golden("pseudo_boxes_dev.npz"))
    records = json.loads(str(archive["records"]))
    assert len(records) > 20
    for index, record in enumerate(records):
        height, width = record["height"], record["width"]
        found, _ = boxes_from_map(archive[f"map{index}"], height, width, record["threshold"])
        expected = np.array(record["boxes_cxcywh_normalized"]).reshape(-1, 4)
        expected = expected * [width, height, width, height]
        centres, sides = expected[:, :2], expected[:, 2:]
        corners = np.hstack([centres - sides / 2, centres + sides / 2])
        np.testing.assert_array_equal(found, np.rint(corners), err_msg=f"map {index}")


def reference_boxes(full, threshold, min_area):
    """Fill holes, label, sum 2 x 2 windows: no contours."""
    filled = ndimage.binary_fill_holes(full > threshold)
    labels, _ = ndimage.label(filled, EIGHT)
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = (labels == number).astype(int)
        windows = part[1:, 1:] + part[:-1, 1:] + part[1:, :-1] + part[:-1, :-1]
        if (windows == 4).sum() + (windows == 3).sum() / 2 >= min_area:
            score = full[rows, columns].max()
            boxes.append((-score, rows.start, columns.start, rows.stop, columns.stop))
    return [(x0, y0, x1, y1) for _, y0, x0, y1, x1 in sorted(boxes)]


@pytest.mark.parametrize("seed", range(12))
def test_against_an_independent_implementation(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(30, 320, 2)
    noise = ndimage.gaussian_filter(rng.random((height, width)), rng.uniform(1, 6))
    full = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    threshold = rng.uniform(0.3, 0.7)
    found, scores = boxes_from_map(full, height, width, threshold, max_boxes=10**6, nms_iou=1)
    min_area = max((height // 100) * (width // 100), 10)
    assert found.tolist() == [list(box) for box in reference_boxes(full, threshold, min_area)]
    assert found.dtype == scores.dtype == np.float32
    for (x0, y0, x1, y1), score in zip(found.astype(int), scores, strict=True):
        assert score == full[y0:y1, x0:x1].max()


def draw(height, width, *rectangles):
    """Rectangles (x0, y0, x1, y1, value)."""
    full = np.zeros((height, width), np.float32)
    for x0, y0, x1, y1, value in rectangles:
        full[y0:y1, x0:x1] = value
    return full


def boxes(full, **settings):
    settings = {"threshold": 0.5, **settings}
    return boxes_from_map(full, *full.shape, **settings)[0].tolist()


def test_map_is_resized_to_an_image_that_is_not_square():
    small = draw(8, 8, (4, 2, 6, 4, 1.0))
    found, scores = boxes_from_map(small, 80, 240, 0.5)
    np.testing.assert_allclose(found, [[120, 20, 180, 40]], atol=3)
    assert scores == [1.0]
    # Half-pixel centres: each cell of a map grown twice is 2 x 2 pixels around its centre.
    np.testing.assert_allclose(resize_map(np.array([[0.0, 1.0]]), 1, 4), [[0, 0.25, 0.75, 1]])


@pytest.mark.parametrize(
    "full",
    [draw(40, 60), draw(40, 60, (0, 0, 60, 40, 0.5)), draw(1, 1, (0, 0, 1, 1, 1.0))],
    ids=["zeros", "equal to the threshold", "one pixel"],
)
def test_no_box(full):
    found, scores = boxes_from_map(full, *full.shape, threshold=0.5)
    assert found.shape == (0, 4)
    assert scores.shape == (0,)
    assert found.dtype == scores.dtype == np.float32


def test_constant_map_is_one_box():
    assert boxes(np.full((40, 60), 0.8)) == [[0, 0, 60, 40]]


def test_component_in_a_hole_does_not_count():
    ring = draw(60, 90, (10, 10, 70, 50, 0.8), (20, 20, 60, 40, 0.0), (30, 25, 45, 35, 0.9))
    found, scores = boxes_from_map(ring, 60, 90, 0.5)
    assert found.tolist() == [[10, 10, 70, 50]]
    assert scores == [np.float32(0.9)]  # the maximum inside the box, hole and all


def test_corners_that_touch_are_one_component():
    assert boxes(draw(40, 60, (5, 5, 15, 15, 0.8), (15, 15, 30, 30, 0.9))) == [[5, 5, 30, 30]]


@pytest.mark.parametrize(
    ("size", "side", "kept"),
    [((99, 99), 4, False), ((99, 99), 5, True), ((250, 1999), 7, False), ((250, 1999), 8, True)],
)
def test_smallest_area(size, side, kept):
    """The contour of a square goes through its pixels' centres, so its area is (side - 1)^2. It
    must reach (250 // 100) * (1999 // 100) = 38, and 10 in small images."""
    assert bool(boxes(draw(*size, (20, 20, 20 + side, 20 + side, 1.0)))) is kept


def test_best_come_first_and_only_so_many():
    spots = [(15 * n, 5, 15 * n + 8, 13, 0.6 + 0.03 * n) for n in range(12)]
    full = draw(30, 200, *spots)
    assert [box[0] for box in boxes(full)] == [15 * n for n in range(11, 1, -1)]
    assert [box[0] for box in boxes(full, max_boxes=2)] == [165, 150]


def test_equal_scores_are_ordered_by_place():
    full = draw(60, 60, (40, 5, 50, 15, 1), (5, 5, 15, 15, 1), (20, 30, 30, 40, 1))
    assert boxes(full) == [[5, 5, 15, 15], [40, 5, 50, 15], [20, 30, 30, 40]]
    assert boxes(full, max_boxes=1) == [[5, 5, 15, 15]]


def test_overlapping_boxes():
    """Two L shapes interlock: their boxes overlap, their pixels do not touch."""
    full = draw(60, 60, (10, 10, 50, 14, 0.9), (10, 10, 14, 50, 0.9))
    full += draw(60, 60, (16, 46, 52, 50, 0.8), (48, 16, 52, 50, 0.8))
    better, worse = [10, 10, 50, 50], [16, 16, 52, 50]
    overlap = 34 * 34
    iou = overlap / (40 * 40 + 36 * 34 - overlap)
    assert boxes(full, nms_iou=iou + 0.01) == [better, worse]
    assert boxes(full, nms_iou=iou) == [better, worse]
    assert boxes(full, nms_iou=iou - 0.01) == [better]


@pytest.mark.parametrize("nms_iou", [0, 0.05, 0.1])
def test_suppression_against_a_loop(nms_iou):
    noise = ndimage.uniform_filter(np.random.default_rng(0).random((200, 300)), 4)
    threshold = np.quantile(noise, 0.6)
    every, scores = boxes_from_map(noise, 200, 300, threshold, max_boxes=10**4, nms_iou=1)
    kept = []
    for index, (x0, y0, x1, y1) in enumerate(every.tolist()):
        overlaps = [0]
        for a0, b0, a1, b1 in every[kept].tolist():
            both = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
            overlaps.append(both / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - both))
        if max(overlaps) <= nms_iou:
            kept.append(index)
    assert 3 < len(kept) < len(every)
    found = boxes_from_map(noise, 200, 300, threshold, max_boxes=10**4, nms_iou=nms_iou)
    np.testing.assert_array_equal(found[0], every[kept])
    np.testing.assert_array_equal(found[1], scores[kept])


@pytest.mark.parametrize(
    "layout",
    [
        lambda full: full,
        lambda full: full.astype(np.float16),
        lambda full: full.astype(">f2"),
        lambda full: full.astype(">f8"),
        lambda full: np.asfortranarray(full.astype(np.float16)),
        lambda full: full[::-1].copy()[::-1],
        lambda full: full.astype(np.float16)[:, ::-1].copy()[:, ::-1],
        lambda full: np.repeat(full, 2, axis=1)[:, ::2],
        lambda full: np.frombuffer(full.tobytes(), np.float32).reshape(full.shape),
        lambda full: full.tolist(),
        lambda full: (8 * full).astype(np.uint8),
    ],
)
def test_types_and_layouts(layout):
    full = draw(40, 60, (10, 5, 30, 15, 1), (5, 20, 15, 35, 0.75))
    given = layout(full)
    before = np.array(given)
    threshold = 0.5 * np.max(given)
    found, scores = boxes_from_map(given, 40, 60, threshold)
    assert found.tolist() == [[10, 5, 30, 15], [5, 20, 15, 35]]
    assert (scores / np.max(given)).tolist() == [1, 0.75]
    np.testing.assert_array_equal(given, before)


def test_beyond_float32():
    full = draw(40, 60).astype(np.float64)
    full[3, 4] = 1e300
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        boxes_from_map(full, 40, 60, 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    full = draw(40, 60)
    full[3, 4] = value
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        boxes(full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anomaly_map": np.zeros((2, 4, 4))}, r"\(h, w\), got \(2, 4, 4\)"),
        ({"anomaly_map": np.zeros((0, 4))}, r"got \(0, 4\)"),
        ({"height": 0}, "got 0 and 9"),
        ({"max_boxes": 0}, "max_boxes >= 1"),
        ({"nms_iou": 1.5}, "1.5"),
        ({"threshold": np.nan}, "finite threshold"),
    ],
)
def test_bad_arguments(settings, message):
    usual = {"anomaly_map": np.zeros((4, 4)), "height": 9, "width": 9, "threshold": 0.5}
    with pytest.raises(ValueError, match=message):
        boxes_from_map(**{**usual, **settings})


def test_another_default_device_changes_nothing():
    """Boxes are cut on the CPU, wherever new tensors go."""
    anomaly_map = np.zeros((6, 9), np.float16)
    anomaly_map[2:4, 3:7] = 0.9
    expected = boxes_from_map(anomaly_map, 60, 90, 0.5)
    with torch.device("meta"):
        boxes, scores = boxes_from_map(anomaly_map, 60, 90, 0.5)
    assert boxes.tolist() == expected[0].tolist() != []
    assert scores.tolist() == expected[1].tolist()
