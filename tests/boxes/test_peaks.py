"""Boxes of peaks against regions grown cell by cell, and on maps whose extents are known."""

import re
from collections import deque

import numpy as np
import pytest

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.boxes.peaks import boxes_of_peaks


def gaussians(*spots, size=(60, 90)) -> np.ndarray:
    """Spots (row, column, height, deviation), the higher where they meet."""
    rows, columns = np.indices(size)
    return np.max(
        [
            height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * deviation**2))
            for y, x, height, deviation in spots
        ],
        axis=0,
    ).astype(np.float32)


def grown(full: np.ndarray, threshold: float, extent: float, max_boxes: int) -> list:
    """Peak -> its region as a set of cells, by a flood from the peak."""
    rest, regions = np.full_like(full, -np.inf), []
    for y, x in np.ndindex(full.shape):
        if full[y, x] == full[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max():
            rest[y, x] = full[y, x]
    while len(regions) < max_boxes and rest.max() > threshold:
        start = tuple(int(i) for i in np.unravel_index(rest.argmax(), rest.shape))
        level = np.float32(extent) * full[start]
        region, queue = {start}, deque([start])
        while queue:
            y, x = queue.popleft()
            for cell in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                inside = 0 <= cell[0] < full.shape[0] and 0 <= cell[1] < full.shape[1]
                if inside and cell not in region and full[cell] > level:
                    region.add(cell)
                    queue.append(cell)
        for cell in region:
            rest[cell] = -np.inf
        regions.append((full[start], region))
    return regions


@pytest.mark.parametrize("extent", [0.3, 0.6, 0.9])
def test_regions_are_those_of_a_flood(extent):
    noise = np.random.default_rng(0).random((31, 47)).astype(np.float32)
    full = np.mean([np.roll(noise, (i, j), (0, 1)) for i in range(4) for j in range(4)], axis=0)
    expected = [
        (peak, region) for peak, region in grown(full, 0.4, extent, 10) if len(region) >= 10
    ]
    assert expected
    boxes, scores, masks = boxes_of_peaks(full, 0.4, extent, 10, nms_iou=1.0)
    np.testing.assert_array_equal(scores, [peak for peak, _ in expected])
    assert [set(map(tuple, np.argwhere(mask).tolist())) for mask in masks] == [
        region for _, region in expected
    ]
    for box, mask in zip(boxes, masks, strict=True):
        ys, xs = mask.nonzero()
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_weak_spot_has_its_full_size_beside_a_strong_one():
    """Both of deviation 6: at half its height a Gaussian is 2 * sqrt(2 ln 2) deviations wide."""
    full = gaussians((30, 20, 1.0, 6), (30, 65, 0.4, 6))
    boxes, scores, _ = boxes_of_peaks(full, 0.3, 0.5)
    np.testing.assert_allclose(scores, [1.0, 0.4])
    for (x0, y0, x1, y1), centre in zip(boxes.tolist(), (20, 65), strict=True):
        assert ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2) == (centre, 30)
        assert x1 - x0 == y1 - y0 == pytest.approx(14.1, abs=1)


def test_peaks_at_the_threshold_and_small_regions_are_left_out():
    full = np.zeros((20, 20), np.float32)
    full[2:6, 2:6] = 0.5
    full[10:13, 10:13] = 0.9  # 9 pixels
    assert len(boxes_of_peaks(full, 0.5, 0.5)[0]) == 0
    boxes, scores, masks = boxes_of_peaks(full, 0.4, 0.5)
    assert boxes.tolist() == [[2, 2, 6, 6]]
    assert scores.tolist() == [0.5]
    assert masks.sum() == 16


@pytest.mark.parametrize("full", [np.zeros((3, 4), np.float32), np.zeros((1, 1), np.float32)])
def test_no_peaks(full):
    boxes, scores, masks = boxes_of_peaks(full, 0.0, 0.5)
    assert (boxes.shape, scores.shape, masks.shape) == ((0, 4), (0,), (0, *full.shape))


def test_overlapping_boxes_are_suppressed_and_the_strongest_kept():
    """A square, and beside it a fainter one whose region holds both: the first fills half of its
    box."""
    full = np.zeros((40, 60), np.float32)
    full[10:30, 10:30] = 0.8
    full[10:30, 30:50] = 0.3
    full[20, 48] = 0.4
    full[20, 10] = 0.9
    strongest = boxes_of_peaks(full, 0.3, 0.6, max_boxes=1)[0]
    assert strongest.tolist() == [[10, 10, 30, 30]]
    assert len(boxes_of_peaks(full, 0.3, 0.6, nms_iou=0.6)[0]) == 2
    boxes, scores, masks = boxes_of_peaks(full, 0.3, 0.6, nms_iou=0.4)
    assert boxes.tolist() == strongest.tolist()
    assert len(masks) == 1
    np.testing.assert_allclose(scores, 0.9)


@pytest.mark.parametrize(
    ("full", "values", "message"),
    [
        (np.full((4, 4), np.nan), {}, "finite values"),
        (np.zeros(4), {}, "Expected a map (H, W)"),
        (np.zeros((4, 4)), {"extent": 1.0}, "an extent in (0, 1)"),
        (np.zeros((4, 4)), {"threshold": -0.1}, "a threshold of 0"),
        (np.zeros((4, 4)), {"max_boxes": 0}, "max_boxes >= 1"),
    ],
)
def test_bad_arguments(full, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        boxes_of_peaks(full, **{"threshold": 0.5, "extent": 0.5, **values})


@pytest.mark.parametrize("extent", [-0.1, 1.0])
def test_rule_names_its_key(extent):
    with pytest.raises(ValueError, match=r"AGSSP.BOXES.EXTENT must be in \[0, 1\), got"):
        BoxRule(0.5, extent=extent)
