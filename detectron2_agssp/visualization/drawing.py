"""Boxes with labels and mask outlines, drawn on copies of pictures."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from detectron2_agssp.visualization.checks import as_boxes, as_map, as_rgb
from detectron2_agssp.visualization.text import fit_text, paint_text

Color = tuple[int, int, int]
Frame = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, half open

TRUTH_COLOR: Color = (60, 220, 120)
DETECTION_COLOR: Color = (255, 150, 40)
PSEUDO_BOX_COLOR: Color = (70, 200, 255)

_DARK: Color = (15, 15, 15)  # rims of lines, and letters: readable on every colour above


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str] | None = None,
    color: Color = DETECTION_COLOR,
    thickness: int | None = None,
) -> np.ndarray:
    """Draw boxes, each with a label that stays inside the picture.

    A label goes above its box, or inside it, or below it: the first place where it fits and
    covers no earlier label; where there is none, below or above the labels in its way. Boxes are
    cut at the border; one wholly outside is left out.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        boxes: (K, 4) XYXY, absolute pixels; K may be 0.
        labels: K strings; an empty string draws no label.
        color: RGB in [0, 255] of the lines and of the plates behind the labels.
        thickness: line width in pixels; by default it grows with the picture (1 at 64, 6 at 2000).

    Returns:
        A new (H, W, 3) RGB uint8 picture.

    Raises:
        TypeError, ValueError: for another shape or dtype, boxes that are not finite or not
            XYXY, or a number of labels other than K.
    """
    canvas = as_rgb(image)
    corners = as_boxes(boxes)
    names = [""] * len(corners) if labels is None else [str(label).strip() for label in labels]
    if len(names) != len(corners):
        raise ValueError(f"one label a box is expected: got {len(names)} for {len(corners)} boxes")
    height, width = canvas.shape[:2]
    line = _line_width(height, width) if thickness is None else thickness
    if line < 1:
        raise ValueError(f"thickness must be at least 1 pixel, got {thickness}")

    visible = []
    for (x1, y1, x2, y2), name in zip(corners, names, strict=True):
        # Half open, and at least one pixel, so that a box of no area can still be seen.
        left, top = math.floor(x1), math.floor(y1)
        right, bottom = max(math.ceil(x2), left + 1), max(math.ceil(y2), top + 1)
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            continue
        frame = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        visible.append((frame, name))

    rim = max(1, line // 3)
    for (left, top, right, bottom), _ in visible:
        outer = left - rim, top - rim, right + rim, bottom + rim
        _paint_frame(canvas, outer, line + 2 * rim, _DARK)
        _paint_frame(canvas, (left, top, right, bottom), line, color)
    # Labels last, so that no frame runs through one, and the first box's on top of all.
    labeled = [(frame, _render_label(name, height, width)) for frame, name in visible if name]
    places: list[Frame] = []
    for frame, plate in labeled:
        places.append(_find_place(frame, plate.shape, line, height, width, places))
    for (x, y, right, bottom), (_, plate) in reversed(list(zip(places, labeled, strict=True))):
        canvas[y:bottom, x:right] = color
        paint_text(canvas, plate, x, y, _DARK)
    return canvas


def draw_mask(image: np.ndarray, mask: np.ndarray, color: Color = TRUTH_COLOR) -> np.ndarray:
    """Draw the outline of a mask, around it, so that what is masked stays visible.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        mask: (h, w) bool or numbers on any grid; every value above 0 is inside. Where the mask
            is reduced, a pixel that holds any of it is inside: a thin crack does not vanish.
        color: RGB in [0, 255].

    Returns:
        A new (H, W, 3) RGB uint8 picture.
    """
    canvas = as_rgb(image)
    height, width = canvas.shape[:2]
    inside = (as_map(mask, "a mask") > 0).astype(np.uint8)
    if height <= inside.shape[0] and width <= inside.shape[1]:
        share = cv2.resize(inside.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        inside = (share > 0).astype(np.uint8)
    else:
        inside = cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST)
    line = _line_width(height, width)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line + 1, 2 * line + 1))
    outline = (cv2.dilate(inside, kernel) > 0) & (inside == 0)
    # Where a mask is cut by the picture's border there is no outside left: paint the border.
    edge = np.ones((height, width), bool)
    edge[line : height - line, line : width - line] = False
    outline |= edge & (inside > 0)
    canvas[outline] = color
    return canvas


def _line_width(height: int, width: int) -> int:
    return max(1, round(math.sqrt(min(height, width)) / 7.5))


def _paint_frame(canvas, frame: Frame, line: int, color: Color) -> None:
    """Fill the band of ``line`` pixels along the inside of ``frame``."""
    left, top, right, bottom = frame

    def inside(margin: int) -> tuple[slice, slice]:
        # A negative bound would count from the far side.
        rows = slice(max(top + margin, 0), max(bottom - margin, 0))
        return rows, slice(max(left + margin, 0), max(right - margin, 0))

    kept = canvas[inside(line)].copy()
    canvas[inside(0)] = color
    canvas[inside(line)] = kept


def _render_label(name: str, height: int, width: int) -> np.ndarray:
    """Coverage of a label with a margin at both sides, no larger than the picture."""
    text_height = min(max(10, round(math.sqrt(min(height, width)))), height)
    margin = max(1, text_height // 6)
    coverage = np.pad(fit_text(name, text_height, width - 2 * margin), ((0, 0), (margin, margin)))
    return coverage[:height, :width]


def _find_place(frame: Frame, size, line: int, height: int, width: int, taken) -> Frame:
    left, top, _, bottom = frame
    x = min(left, width - size[1])
    lowest = height - size[0]
    candidates = [top - size[0], top + line, bottom, bottom - line - size[0]]
    starts = [y for y in candidates if 0 <= y <= lowest] or [min(top, lowest)]
    # A small box at the border has one place, and its neighbour's label may stand there.
    starts += sorted(
        (y for other in taken for y in (other[3], other[1] - size[0]) if 0 <= y <= lowest),
        key=lambda y: abs(y - starts[0]),
    )
    places = [(x, y, x + size[1], y + size[0]) for y in starts]
    free = [place for place in places if not any(_overlap(place, other) for other in taken)]
    return (free or places)[0]


def _overlap(first: Frame, second: Frame) -> bool:
    # With a gap beside it, or two numbers would read as one.
    return (
        first[0] <= second[2] + 2
        and second[0] <= first[2] + 2
        and first[1] < second[3]
        and second[1] < first[3]
    )
