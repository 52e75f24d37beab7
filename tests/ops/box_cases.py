"""What the tests of boxes share: patterns, an independent implementation, and both of ours."""

import sys

import numpy as np
import torch
from scipy import ndimage

from detectron2_agssp.ops import anomaly_boxes

# "detectron2_agssp.ops.anomaly_boxes" as an attribute is the function.
MODULE = sys.modules["detectron2_agssp.ops.anomaly_boxes"]
ALL = 10**4
NAN, INF = float("nan"), float("inf")


def find(maps, thresholds=0.5, min_areas=0, max_boxes=ALL, size=None):
    """Of (N, H, W) or (H, W) arrays; a list of (boxes, scores) without the zero rows."""
    device = torch.get_default_device()
    if isinstance(maps, np.ndarray):
        maps = torch.from_numpy(np.atleast_3d(maps.T).T).to(device)
    thresholds, min_areas = (
        torch.as_tensor(values, dtype=torch.float64, device=device).expand(len(maps))
        for values in (thresholds, min_areas)
    )
    boxes, scores, counts = anomaly_boxes(maps, thresholds, min_areas, max_boxes, size=size)
    assert boxes.shape == (len(maps), max_boxes, 4)
    assert scores.shape == (len(maps), max_boxes)
    assert counts.shape == (len(maps),)
    assert (boxes.dtype, scores.dtype, counts.dtype) == (torch.float32, torch.float32, torch.int64)
    after = torch.arange(max_boxes) >= counts[:, None]
    assert not boxes[after].any()
    assert not scores[after].any()
    return [
        (rows[:count].tolist(), values[:count].tolist())
        for rows, values, count in zip(boxes, scores, counts, strict=True)
    ]


def by_hand(full, threshold=0.5, min_area=0, max_boxes=ALL):
    """Fill holes, label, sum 2 x 2 windows."""
    labels, _ = ndimage.label(ndimage.binary_fill_holes(full > threshold), np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = (labels[rows, columns] == number).astype(int)
        windows = part[1:, 1:] + part[:-1, 1:] + part[1:, :-1] + part[:-1, :-1]
        if (windows == 4).sum() + (windows == 3).sum() / 2 >= min_area:
            score = np.fmax.reduce(full[rows, columns], axis=None)
            found.append((-score, rows.start, columns.start, rows.stop, columns.stop))
    found = sorted(found)[:max_boxes]
    return [[x0, y0, x1, y1] for _, y0, x0, y1, x1 in found], [-row[0] for row in found]


def draw(*rows):
    """A map of 0 and 1 from rows of "." and "#"."""
    return np.array([[character == "#" for character in row] for row in rows], np.float32)


def snake(height, width):
    """One component, one pixel wide, through the whole map."""
    full = np.zeros((height, width), np.float32)
    full[::2] = 1
    full[1::4, -1] = 1
    full[3::4, 0] = 1
    return full


def spiral(height, width):
    full = np.zeros((height, width), np.float32)
    y, x, (dy, dx) = 0, 0, (0, 1)
    free = lambda y, x: not (0 <= y < height and 0 <= x < width) or not full[y, x]  # noqa: E731
    while True:
        full[y, x] = 1
        inside = 0 <= y + dy < height and 0 <= x + dx < width
        if not inside or not free(y + 2 * dy, x + 2 * dx):
            dy, dx = dx, -dy
            inside = 0 <= y + dy < height and 0 <= x + dx < width
            if not inside or full[y + dy, x + dx] or not free(y + 2 * dy, x + 2 * dx):
                return full
        y, x = y + dy, x + dx


def checkerboard(height, width):
    return (np.indices((height, width)).sum(0) % 2).astype(np.float32)


def rings(height, width):
    """Each in the hole of the next."""
    rows, columns = np.indices((height, width))
    depth = np.minimum(
        np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns)
    )
    return (depth % 3 == 1).astype(np.float32)


def dots(height, width):
    full = np.zeros((height, width), np.float32)
    full[::2, ::2] = 1
    return full


def corners(height, width):
    """Nested L shapes: as many components as columns, and boxes that overlap nearly wholly."""
    rows, columns = np.indices((height, width))
    return (np.minimum(rows, columns) % 2 == 0).astype(np.float32)


def comb(height, width):
    """Teeth that meet only in the last row."""
    full = np.zeros((height, width), np.float32)
    full[:, ::2] = 1
    full[-1] = 1
    return full


PATTERNS = (snake, spiral, checkerboard, rings, dots, corners, comb)
