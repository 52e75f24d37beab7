"""Tiles cover an image, and what they saw becomes what the whole image shows."""

import itertools

import numpy as np
import pytest
import torch

from detectron2_agssp.inference.tiles import cut_tiles, merge_tiles, tile_frames

OVERLAP = 0.25
TILE = 100


def found(*rows):
    """Rows of x1, y1, x2, y2, score, class."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "classes": table[:, 5].long()}


def seen_by_tiles(objects, frames, min_side=6):
    """What a perfect detector says of each tile, of the image's objects (x1, y1, x2, y2, class)."""
    detections = []
    for left, top, right, bottom in frames:
        rows = []
        for x1, y1, x2, y2, kind in objects:
            part = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
            if min(part[2] - part[0], part[3] - part[1]) >= min_side:
                box = np.subtract(part, (left, top, left, top))
                area = (part[2] - part[0]) * (part[3] - part[1])
                # What is whole is seen best.
                score = 0.5 + 0.4 * area / ((x2 - x1) * (y2 - y1))
                rows.append((*box, score, kind))
        detections.append(found(*rows))
    return detections


def as_rows(merged):
    boxes = merged["boxes"].round().int().tolist()
    return sorted((*box, kind) for box, kind in zip(boxes, merged["classes"].tolist(), strict=True))


@pytest.mark.parametrize(("height", "width"), [(100, 100), (30, 100), (101, 350), (260, 99)])
def test_tiles_cover_the_image_and_overlap(height, width):
    frames = tile_frames(height, width, TILE, OVERLAP)
    covered = np.zeros((height, width), int)
    for left, top, right, bottom in frames:
        assert (right - left, bottom - top) == (min(TILE, width), min(TILE, height))
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    lefts = sorted({frame[0] for frame in frames})
    assert all(b - a <= TILE * (1 - OVERLAP) for a, b in itertools.pairwise(lefts))
    assert (len(frames) == 1) == (max(height, width) <= TILE)
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    tile, (left, top, *_) = cut_tiles(image, frames)[-1], frames[-1]
    assert (tile[0, 0] == image[top, left]).all()


@pytest.mark.parametrize(
    "objects",
    [
        [],
        [(10, 10, 40, 30, 0)],
        # In what two tiles share, and in what four share.
        [(80, 20, 95, 40, 1)],
        [(78, 78, 98, 98, 0)],
        # Seen whole by one tile, in part by its neighbour.
        [(60, 20, 96, 60, 0)],
        # Across one seam, two, and all, in both directions.
        [(20, 40, 160, 60, 0)],
        [(5, 40, 245, 60, 2)],
        [(40, 30, 210, 170, 0)],
        # Neighbours of one class, and two classes at one place.
        [(5, 10, 245, 30, 0), (5, 50, 245, 70, 0)],
        [(5, 40, 245, 60, 0), (5, 40, 245, 60, 1)],
        [(20, 40, 110, 60, 0), (120, 42, 240, 58, 0)],
    ],
)
def test_objects_are_put_together(objects):
    frames = tile_frames(200, 250, TILE, OVERLAP)
    assert len(frames) == 9
    merged = merge_tiles(seen_by_tiles(objects, frames), frames, nms_iou=0.5)
    assert as_rows(merged) == sorted(objects)
    assert (merged["boxes"].dtype, merged["scores"].dtype) == (torch.float32, torch.float32)
    assert merged["classes"].dtype == torch.int64


def test_the_best_of_two_views_is_kept():
    frames = tile_frames(100, 175, TILE, OVERLAP)
    assert [frame[0] for frame in frames] == [0, 75]
    merged = merge_tiles(
        [found((80, 20, 95, 40, 0.6, 0)), found((5, 21, 21, 40, 0.9, 0))], frames, nms_iou=0.5
    )
    assert as_rows(merged) == [(80, 21, 96, 40, 0)]
    assert merged["scores"].tolist() == [pytest.approx(0.9)]


def test_by_falling_score_and_without_what_overlaps():
    frames = tile_frames(100, 175, TILE, OVERLAP)
    low, high = (10, 10, 30, 30, 0.3, 0), (90, 60, 99, 70, 0.8, 1)
    merged = merge_tiles([found(low, (11, 10, 31, 30, 0.4, 0)), found(high)], frames, nms_iou=0.5)
    assert merged["scores"].tolist() == [pytest.approx(0.8), pytest.approx(0.4)]


def test_random_scenes_come_back():
    rng = np.random.default_rng(0)
    for _ in range(20):
        frames = tile_frames(*rng.integers(60, 320, 2), TILE, OVERLAP)
        width, height = frames[-1][2:]
        # In cells of their own, so that no two are one object.
        objects = []
        for y in range(0, height - 25, 40):
            x = int(rng.integers(20))
            while x < width - 25:
                right = int(min(x + rng.integers(20, 150), width))
                objects.append((x, y, right, y + 24, int(rng.integers(2))))
                x = right + 12 + int(rng.integers(20))
        merged = merge_tiles(seen_by_tiles(objects, frames), frames, nms_iou=0.5)
        assert as_rows(merged) == sorted(objects)
