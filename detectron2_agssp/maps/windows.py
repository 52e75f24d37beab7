"""Square windows of images, read as if each were the whole image.

Shapes: H x W pixels of an image; h x w cells of its anomaly map.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detectron2_agssp.io.images import ImageReader


@dataclass(frozen=True)
class Window:
    """A square of an image: the image's path below its folder, and in pixels the first row, the
    first column and the side."""

    image: str
    top: int
    left: int
    side: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (side, side, 3), a view."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


class WindowReader:
    """Reads of each image its window, mirrored at its sides until it is as large as the image: a
    scorer that resizes images sees the surface at the same scale in both.

    Args:
        reader: reads the whole image.
        image_root: what the windows' images are below.
        windows: at most one of an image; an image without one is no key.
    """

    def __init__(self, reader: ImageReader, image_root: str | Path, windows: Iterable[Window]):
        self.reader = reader
        self.windows = {os.path.join(str(image_root), window.image): window for window in windows}

    def __call__(self, path: str) -> np.ndarray:
        """The file at ``path``, (H, W, 3) uint8; raises as :class:`ImageReader` does."""
        image = self.reader(path)
        window = self.windows[path]
        below, beside = (side - window.side for side in image.shape[:2])
        return np.pad(window.cut(image), ((0, below), (0, beside), (0, 0)), mode="symmetric")


def calmest_window(
    anomaly_map: np.ndarray, image: str, height: int, width: int, share: float
) -> tuple[float, Window]:
    """The window of the lowest mean score, and that mean.

    Args:
        anomaly_map: (h, w), finite.
        image: its path, for the window.
        height, width: of the image, pixels.
        share: the window's side as a share of the image's shorter side, in (0, 1].
    """
    side = max(1, round(share * min(height, width)))
    scale_y, scale_x = (
        cells / pixels for cells, pixels in zip(anomaly_map.shape, (height, width), strict=True)
    )
    rows, columns = max(1, round(side * scale_y)), max(1, round(side * scale_x))
    # From the anchor to the right and below: what sticks out of the map is cut off.
    means = cv2.boxFilter(anomaly_map.astype(np.float32), -1, (columns, rows), anchor=(0, 0))[
        : anomaly_map.shape[0] - rows + 1, : anomaly_map.shape[1] - columns + 1
    ]
    row, column = np.unravel_index(means.argmin(), means.shape)
    top = min(round(row / scale_y), height - side)
    left = min(round(column / scale_x), width - side)
    return float(means[row, column]), Window(image, top, left, side)
