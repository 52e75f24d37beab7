"""How many pseudo-boxes, how large, and how much of the images they cover."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.maps.store import MapStore, load_map

UNIT_BINS = 200  # of map values, which lie in [0, 1]
# Thresholds that tables show.
THRESHOLD_GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


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
        sides: each box's side relative to its image, sqrt(box area / image area).
        maxima: images by their map's maximum, (200,) over [0, 1].
        cells: map cells by value, (200,) over [0, 1].
    """

    images: int = 0
    with_boxes: int = 0
    boxes: int = 0
    covered: float = 0.0
    sides: list[float] = field(default_factory=list)
    maxima: np.ndarray = field(default_factory=_unit_bins)
    cells: np.ndarray = field(default_factory=_unit_bins)

    def add(self, anomaly_map: np.ndarray, boxes: np.ndarray, height: int, width: int) -> None:
        """Counts one image: its map (h, w) in [0, 1] and boxes (K, 4) XYXY, absolute pixels."""
        self.images += 1
        self.with_boxes += len(boxes) > 0
        self.boxes += len(boxes)
        self.covered += covered_area(boxes) / (height * width)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        self.sides += np.sqrt(areas / (height * width)).tolist()
        self.maxima += _count(anomaly_map.max())
        self.cells += _count(anomaly_map)

    @property
    def share_with_boxes(self) -> float:
        """Of the images that have at least one box, [0, 1]."""
        return self.with_boxes / self.images

    @property
    def boxes_per_image(self) -> float:
        """Boxes of an image, in the mean."""
        return self.boxes / self.images

    @property
    def box_coverage(self) -> float:
        """Share of an image's area inside its boxes, [0, 1]; mean over the images."""
        return self.covered / self.images

    def __iadd__(self, other: "BoxStatistics") -> "BoxStatistics":
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @classmethod
    def total(cls, parts: Iterable["BoxStatistics"]) -> "BoxStatistics":
        """The sum of several."""
        result = cls()
        for part in parts:
            result += part
        return result

    def side_quantile(self, q: float) -> float | None:
        """Side of the box, relative to the image, that a share ``q`` of the boxes does not exceed;
        None without boxes."""
        if not self.sides:
            return None
        return float(np.quantile(self.sides, q, method="inverted_cdf"))


def stored_maps(map_root: str | Path) -> Iterator[tuple[dict, np.ndarray]]:
    """The manifest entries of a folder, each with its map (h, w)."""
    store = MapStore(map_root)
    return ((entry, load_map(store.root / entry["map"])) for entry in store.entries())


def box_statistics(cfg, map_root: str | Path) -> BoxStatistics:
    """Of all maps of a folder, and the boxes of ``cfg.AGSSP.BOXES``.

    Raises:
        FileNotFoundError, ValueError: no map folder, or a bad map (named).
    """
    rule, statistics = BoxRule.from_config(cfg, map_root), BoxStatistics()
    for entry, anomaly_map in stored_maps(map_root):
        height, width = entry["height"], entry["width"]
        boxes, _ = rule(anomaly_map, height, width, entry["source"])
        statistics.add(anomaly_map, boxes, height, width)
    return statistics


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
