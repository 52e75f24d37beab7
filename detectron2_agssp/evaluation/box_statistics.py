"""How many pseudo-boxes, how large, and how much of the images they cover."""

from dataclasses import dataclass, field

import numpy as np

UNIT_BINS = 200  # of what lies in [0, 1]: map values and relative sides of boxes


def _unit_bins() -> np.ndarray:
    return np.zeros(UNIT_BINS, np.int64)


@dataclass
class BoxStatistics:
    """Of the maps of some images and the boxes cut from them.

    Attributes:
        images: how many were looked at.
        with_boxes: those with at least one box.
        boxes: in all of them.
        covered: sum over the images of the share of their area inside any box.
        sides: boxes by side relative to the image, sqrt(box area / image area), (200,) over [0, 1].
        maxima: images by their map's maximum, (200,) over [0, 1].
        cells: map cells by value, (200,) over [0, 1].
    """

    images: int = 0
    with_boxes: int = 0
    boxes: int = 0
    covered: float = 0.0
    sides: np.ndarray = field(default_factory=_unit_bins)
    maxima: np.ndarray = field(default_factory=_unit_bins)
    cells: np.ndarray = field(default_factory=_unit_bins)

    def add(self, anomaly_map: np.ndarray, boxes: np.ndarray, height: int, width: int) -> None:
        """Counts one image: its map (h, w) in [0, 1] and boxes (K, 4) XYXY, absolute pixels."""
        self.images += 1
        self.with_boxes += len(boxes) > 0
        self.boxes += len(boxes)
        self.covered += covered_area(boxes) / (height * width)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        self.sides += _count(np.sqrt(areas / (height * width)))
        self.maxima += _count(anomaly_map.max())
        self.cells += _count(anomaly_map)

    def __iadd__(self, other: "BoxStatistics") -> "BoxStatistics":
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def side_quantile(self, q: float) -> float | None:
        """Side of the box, relative to the image, that a share ``q`` of the boxes does not exceed,
        to 0.0025; None without boxes."""
        if self.boxes == 0:
            return None
        index = int(np.searchsorted(np.cumsum(self.sides), max(q * self.boxes, 1)))
        return (index + 0.5) / UNIT_BINS


def covered_area(boxes: np.ndarray) -> float:
    """Area of the union of boxes (K, 4) XYXY, square pixels."""
    if len(boxes) == 0:
        return 0.0
    x, y = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])
    # The boxes' sides divide the plane into cells, each wholly inside or outside of each box.
    in_columns = (boxes[:, :1] <= x[:-1]) & (x[1:] <= boxes[:, 2:3])
    in_rows = (boxes[:, 1:2] <= y[:-1]) & (y[1:] <= boxes[:, 3:])
    inside = (in_rows[:, :, None] & in_columns[:, None, :]).any(axis=0)
    return float(np.diff(y) @ inside @ np.diff(x))


def _count(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] by bin, (200,)."""
    bins = np.minimum((np.ravel(values) * UNIT_BINS).astype(np.int64), UNIT_BINS - 1)
    return np.bincount(bins, minlength=UNIT_BINS)
