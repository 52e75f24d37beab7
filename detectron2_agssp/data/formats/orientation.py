"""Boxes of photos that EXIF turns: labelled on the pixels as they are stored, wanted upright."""

from collections.abc import Sequence

Corners = tuple[float, float, float, float]


def upright_box(box: Corners, orientation: int, width: float, height: float) -> Corners:
    """A box of the stored pixels on the upright image, which is how images are read.

    Args:
        box: XYXY, edges in pixels.
        orientation: EXIF's, 1 to 8; 1 is upright, and from 5 on width and height change places.
        width, height: of the upright image.
    """
    left, top, right, bottom = box
    if orientation > 4:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def upright_points(
    points: Sequence[float], orientation: int, width: float, height: float
) -> list[float]:
    """Points x, y, x, y, ... of the stored pixels, likewise."""
    pairs = zip(points[::2], points[1::2], strict=True)
    boxes = (upright_box((x, y, x, y), orientation, width, height) for x, y in pairs)
    return [value for box in boxes for value in box[:2]]
