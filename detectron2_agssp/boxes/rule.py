"""The one way from ``AGSSP.BOXES`` and a map folder to pseudo-boxes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2_agssp.boxes.components import boxes_from_map, component_masks, resize_map
from detectron2_agssp.boxes.peaks import boxes_of_peaks
from detectron2_agssp.boxes.threshold import box_threshold


@dataclass(frozen=True)
class BoxRule:
    """How boxes are cut from the maps of one folder: what AGDP trains on, and what everything that
    exports, draws or judges boxes calls.

    Attributes:
        threshold: in the maps' units, [0, 1): of all maps, or by source.
        max_boxes, nms_iou: of :func:`~detectron2_agssp.boxes.boxes_from_map`.
        extent: 0 for the boxes of that function; in (0, 1) for those of
            :func:`~detectron2_agssp.boxes.peaks.boxes_of_peaks`.
    """

    threshold: float | Mapping[str, float]
    max_boxes: int = 10
    nms_iou: float = 0.8
    extent: float = 0.0

    def __post_init__(self):
        if not 0 <= self.extent < 1:
            raise ValueError(f"AGSSP.BOXES.EXTENT must be in [0, 1), got {self.extent}.")

    @classmethod
    def from_config(cls, cfg, map_root: str | Path) -> "BoxRule":
        """The rule of ``cfg.AGSSP.BOXES`` for a map folder.

        Raises:
            FileNotFoundError, ValueError: as
                :func:`~detectron2_agssp.boxes.threshold.box_threshold`.
        """
        settings = cfg.AGSSP.BOXES
        return cls.from_map_folder(
            map_root,
            mode=settings.THRESHOLD_MODE,
            margin=settings.MARGIN,
            quantile=settings.QUANTILE,
            threshold=settings.THRESHOLD,
            per_source=settings.PER_SOURCE,
            max_boxes=settings.MAX_BOXES,
            nms_iou=settings.NMS_IOU,
            extent=settings.EXTENT,
        )

    @classmethod
    def from_map_folder(
        cls,
        map_root: str | Path,
        *,
        max_boxes: int = 10,
        nms_iou: float = 0.8,
        extent: float = 0.0,
        **threshold,
    ) -> "BoxRule":
        """The same without a config; ``threshold``: ``mode``, ``margin``, ... of
        :func:`~detectron2_agssp.boxes.threshold.box_threshold`."""
        return cls(box_threshold(map_root, **threshold), max_boxes, nms_iou, extent)

    def __call__(
        self, anomaly_map: np.ndarray, height: int, width: int, source: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts the boxes of one image.

        Args:
            anomaly_map: (h, w), as stored, or at the image's size already (resized by
                :func:`~detectron2_agssp.boxes.components.resize_map`, augmented): the boxes are the
                same, to the bit.
            height, width: of the image, pixels.
            source: of the image; asked for where thresholds differ by source.

        Returns:
            boxes (K, 4) float32, XYXY, absolute pixels, of falling score; scores (K,) float32.

        Raises:
            ValueError: as :func:`~detectron2_agssp.boxes.boxes_from_map`, or the source has no
                threshold.
        """
        threshold = self.threshold_of(source)
        if self.extent:
            full = resize_map(anomaly_map, height, width)
            return self._peaks(full, threshold)[:2]
        return boxes_from_map(anomaly_map, height, width, threshold, self.max_boxes, self.nms_iou)

    def _peaks(
        self, full: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return boxes_of_peaks(full, threshold, self.extent, self.max_boxes, self.nms_iou)

    def masks(self, full: np.ndarray, boxes: np.ndarray, source: str = "") -> np.ndarray:
        """The masks of boxes: of each, the component that it was cut from, holes filled, or the
        region of its peak.

        Args:
            full: (H, W), the map at the size of its image.
            boxes: (K, 4), what the rule cut from it.
            source: as where they were cut.

        Returns:
            (K, H, W) bool; the extents of each are its box, to the bit.
        """
        threshold = self.threshold_of(source)
        if not self.extent or not len(boxes):
            return component_masks(full, threshold, boxes)
        cut, _, masks = self._peaks(full, threshold)
        same = (boxes[:, None] == cut).all(axis=2)
        return masks[same.argmax(axis=1)]

    def threshold_of(self, source: str) -> float:
        """The threshold of a source's maps.

        Raises:
            ValueError: thresholds are by source, and this one has none.
        """
        if not isinstance(self.threshold, Mapping):
            return self.threshold
        if source not in self.threshold:
            raise ValueError(
                f"There is no box threshold for the source {source!r}, only for "
                f"{', '.join(sorted(self.threshold))}: its maps are newer than the thresholds, or "
                "of other images. AGSSP.BOXES.PER_SOURCE False cuts all at one."
            )
        return self.threshold[source]

    @property
    def mean_threshold(self) -> float:
        """The threshold, or the mean of the sources' thresholds: one number to print."""
        if isinstance(self.threshold, Mapping):
            return float(np.mean([*self.threshold.values()]))
        return self.threshold

    def at(self, threshold: float) -> "BoxRule":
        """The same rule at another threshold."""
        return dataclasses.replace(self, threshold=threshold)
