"""Boxes of maps against SciPy's labels, compiled and not."""

import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from detectron2_agssp.boxes import boxes_from_map
from tests.ops.box_cases import (
    ALL,
    INF,
    MODULE,
    NAN,
    PATTERNS,
    by_hand,
    draw,
    find,
)
from tests.ops.implementations import Implementation, only_compiled

pytestmark = pytest.mark.usefixtures("implementation")
# The fixture stays as it is for all examples, as it should.
LASTING = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.mark.parametrize("size", [(41, 67), (64, 130), (9, 5)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern, size):
    full = pattern(*size)
    full *= np.random.default_rng(0).choice([0.6, 0.7, 0.9], size).astype(np.float32)
    for shape in (full, full.T, full[::-1], np.where(full > 0.5, 0, 1).astype(np.float32)):
        assert find(shape.copy()) == [by_hand(shape)]
        assert find(shape.copy(), min_areas=7) == [by_hand(shape, min_area=7)]


@st.composite
def some_maps(draw):
    """Small maps with ties, values equal to the threshold, NaN and infinities."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 80)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    maps = rng.random(shape, dtype=np.float32)
    if draw(st.booleans()):  # smooth ones have larger components
        maps = ndimage.uniform_filter(maps, (0, draw(st.integers(2, 5)), 3)).astype(np.float32)
    maps = np.round(maps * 8) / 8
    for value in (NAN, INF, -INF):
        maps[rng.random(shape) < draw(st.sampled_from([0, 0, 0.03]))] = value
    thresholds = [draw(st.sampled_from([-INF, *np.arange(-1, 9) / 8])) for _ in maps]
    min_areas = [draw(st.sampled_from([0, 0.5, 1, 1.5, 3, 10, 1000])) for _ in maps]
    return maps, thresholds, min_areas, draw(st.sampled_from([1, 2, 5, ALL]))


@settings(max_examples=200, **LASTING)
@given(case=some_maps())
def test_random_maps(case):
    maps, thresholds, min_areas, max_boxes = case
    expected = [by_hand(*each, max_boxes) for each in zip(maps, thresholds, min_areas, strict=True)]
    assert find(maps, thresholds, min_areas, max_boxes) == expected


@only_compiled
@settings(max_examples=100, **LASTING)
@given(case=some_maps(), size=st.tuples(st.integers(1, 70), st.integers(1, 70)))
def test_resized_maps_have_the_same_bits_everywhere(case, size):
    maps, thresholds, min_areas, max_boxes = case
    arguments = (maps, thresholds, min_areas, max_boxes, size)
    with Implementation("reference", "cpu").active():
        expected = find(*arguments)
    assert find(*arguments) == expected


@settings(max_examples=50, **LASTING)
@given(
    st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(1, 50)] * 2), st.integers(0, 99)
)
def test_resize_is_that_of_opencv_and_pytorch(small, size, seed):
    small = np.random.default_rng(seed).random(small, dtype=np.float32)
    found = MODULE.resize_bilinear(small, *size)
    assert found.dtype == np.float32
    assert found.shape == size
    np.testing.assert_allclose(found, cv2.resize(small, size[::-1]), atol=1e-5)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(found, expected[0, 0], atol=1e-5)


def test_boxes_of_a_resized_map_are_those_of_opencv():
    rng = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(rng.random((4, 17, 23)), (0, 2, 2)).astype(np.float32)
    maps /= maps.max(axis=(1, 2), keepdims=True)
    thresholds = [0.7, 0.8, 0.9, 0.95]
    found = find(maps, thresholds, 10, size=(200, 310))
    for (boxes, scores), small, threshold in zip(found, maps, thresholds, strict=True):
        expected, maxima = by_hand(cv2.resize(small, (310, 200)), threshold, 10)
        assert boxes == expected
        assert boxes
        np.testing.assert_allclose(scores, maxima, rtol=1e-6)


def test_a_plateau_keeps_its_value():
    """So that it stays out where it equals the threshold, and ties stay ties."""
    maps = np.full((2, 3, 5), 0.1, np.float32)
    maps[1] += np.float32(0.2)
    threshold = float(maps[0, 0, 0])
    found = find(maps, threshold, size=(37, 61))
    assert found == [([], []), ([[0, 0, 61, 37]], [float(maps[1, 0, 0])])]


def test_golden(golden):
    archive = np.load(golden("pseudo_boxes_dev.npz"))
    records = json.loads(str(archive["records"]))
    for index, record in enumerate(records):
        height, width = record["height"], record["width"]
        found, _ = boxes_from_map(archive[f"map{index}"], height, width, record["threshold"])
        expected = np.array(record["boxes_cxcywh_normalized"]).reshape(-1, 4)
        expected = expected * [width, height, width, height]
        centres, sides = expected[:, :2], expected[:, 2:]
        expected = np.rint(np.hstack([centres - sides / 2, centres + sides / 2]))
        np.testing.assert_array_equal(found, expected, err_msg=f"map {index}")


def test_area_counts_windows():
    full = draw("##...#...#", "##..##....", "......###.")
    found = {
        limit: [box[0] for box in find(full, min_areas=limit)[0][0]]
        for limit in (0, 0.5, 0.6, 1, 1.1)
    }
    assert found == {0: [0, 4, 9], 0.5: [0, 4], 0.6: [0], 1: [0], 1.1: []}


def test_what_is_in_a_hole_counts_for_the_score_and_the_area_only():
    full = draw("#####", "#...#", "#.#.#", "#...#", "#####") * np.float32(0.8)
    full[2, 2] = 2
    assert find(full, min_areas=16) == [([[0, 0, 5, 5]], [2])]
    full[0, 1] = 0  # 4-connected to the border: the hole is open
    assert find(full)[0][0] == [[0, 0, 5, 5], [2, 2, 3, 3]]
    full[0, 1], full[0, 0], full[1, 0], full[1, 1] = 0.8, 0, 0.8, 0.8
    assert find(full)[0][0] == [[0, 0, 5, 5]]  # by a corner only: closed


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (2, 2), (2, 65), (1, 64), (3, 128)])
@pytest.mark.parametrize("value", [0, 1])
def test_all_or_nothing(shape, value):
    expected = ([[0, 0, *shape[::-1]]], [1]) if value else ([], [])
    assert find(np.full(shape, value, np.float32)) == [expected]


@pytest.mark.parametrize("size", [None, (3, 4)])
@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 5, 0), (0, 0, 0)])
def test_nothing_there(shape, size):
    assert find(torch.zeros(shape), max_boxes=3, size=size) == [([], [])] * shape[0]


def test_ties_are_ordered_by_place():
    full = draw(".#.#.#", "......", "#.#...", "......", "#....#")
    boxes = [[1, 0, 2, 1], [3, 0, 4, 1], [5, 0, 6, 1], [0, 2, 1, 3], [2, 2, 3, 3], [0, 4, 1, 5]]
    assert find(full)[0][0] == [*boxes, [5, 4, 6, 5]]
    for most in (1, 2, 6):
        assert find(full, max_boxes=most)[0][0] == boxes[:most]
    # Two components of one corner: the one that ends first.
    full = draw("..#..#", "..#..#", "###..#", ".....#", "######")
    assert find(full)[0][0] == [[0, 0, 3, 3], [0, 0, 6, 5]]


def test_not_finite():
    full = draw("##.##", "##.##", ".....")
    full[0, 0], full[2, 2], full[0, 4], full[1, 2] = NAN, NAN, INF, -INF
    assert find(full) == [([[3, 0, 5, 2], [0, 0, 2, 2]], [INF, 1])]
    assert find(np.full((4, 5), NAN, np.float32)) == [([], [])]
    assert find(full, thresholds=NAN) == [([], [])]
    assert find(full, min_areas=NAN) == [([], [])]
    assert find(full, thresholds=INF) == [([], [])]
    # Resized, they spread no further than the pixels they are mixed into.
    full = np.ones((4, 12), np.float32)
    full[:, 0] = NAN
    assert find(full, size=(8, 24)) == [([[3, 0, 24, 8]], [1])]
    full[:, 0] = INF
    ((boxes, scores),) = find(full, size=(8, 24))
    assert boxes[0][2:] == [24, 8]
    assert scores[0] in (1, INF)


def test_zero_is_not_negative():
    ((_, scores),) = find(torch.full((1, 2, 2), -0.0), thresholds=-1)
    assert str(scores) == "[0.0]"
