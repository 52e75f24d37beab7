"""Text on pictures, kept inside a given width.

A line is first rendered alone and measured by its ink, because OpenCV 4 (stroke fonts) and 5
(outline fonts) disagree on the size that ``getTextSize`` reports.
"""

import re

import cv2
import numpy as np

SMALLEST_HEIGHT = 9  # px; below this the letters run together

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 34.0  # px from the highest accent to the lowest descender at font scale 1
_BASELINE = 0.79  # of the line height, from the top


def printable(text: str) -> str:
    """The text with "?" for what no output takes: control characters, and the halves of surrogate
    pairs that Python makes of a file name that is not UTF-8 (OpenCV dies of them)."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "?", text)


def render_text(text: str, height: int) -> np.ndarray:
    """Render one line of text.

    Args:
        text: any string; runs of white space, line breaks included, become one space.
        height: height of the line in pixels, accents and descenders included.

    Returns:
        (height, w) float32 coverage in [0, 1], w as wide as the ink, at least 1.
    """
    line = " ".join(printable(text).split())
    canvas = np.zeros((height, round(1.2 * height * (len(line) + 2))), np.uint8)
    scale = height / _FONT_HEIGHT
    origin = (height, round(_BASELINE * height))
    cv2.putText(canvas, line, origin, _FONT, scale, 255, max(1, round(1.5 * scale)), cv2.LINE_AA)
    columns = np.flatnonzero(canvas.any(axis=0))
    if columns.size == 0:
        return np.zeros((height, 1), np.float32)
    coverage = canvas[:, columns[0] : columns[-1] + 1].astype(np.float32) / 255
    # Strokes thinner than a pixel come out pale: strengthen what is neither full nor empty.
    return coverage**0.65


def fit_text(text: str, height: int, width: int) -> np.ndarray:
    """Like :func:`render_text`, at most ``width`` pixels wide.

    Too long a line is made smaller, down to 9 pixels, and then cut, with "..." at its end.
    """
    line = " ".join(text.split())[: max(width, 1)]  # no letter is narrower than a pixel
    coverage = render_text(line, height)
    while coverage.shape[1] > width and height > SMALLEST_HEIGHT:
        height = max(SMALLEST_HEIGHT, min(height - 1, height * width // coverage.shape[1]))
        coverage = render_text(line, height)
    while coverage.shape[1] > width and line:
        # Jump close to the fitting length at once, then shorten letter by letter.
        keep = min(len(line) - 1, len(line) * width // coverage.shape[1])
        line = line[:keep].rstrip()
        coverage = render_text(f"{line}...", height)
    return coverage[:, : max(width, 1)]


def paint_text(
    image: np.ndarray, coverage: np.ndarray, left: int, top: int, color: tuple[int, int, int]
) -> None:
    """Paint a rendered line into a picture, in place; what does not fit is cut off.

    Args:
        image: (H, W, 3) uint8.
        coverage: (h, w) float32 in [0, 1], from :func:`render_text` or :func:`fit_text`.
        left, top: where the line's upper left corner goes, in pixels, 0 or more.
        color: RGB of the letters, in [0, 255].
    """
    region = image[top:, left:][: coverage.shape[0], : coverage.shape[1]]
    weight = coverage[: region.shape[0], : region.shape[1], None]
    region[:] = np.rint(region * (1 - weight) + np.float32(color) * weight).astype(np.uint8)
