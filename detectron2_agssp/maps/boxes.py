"""Pseudo-boxes: the external components of a thresholded anomaly map."""

import cv2
import numpy as np
import torch

from detectron2_agssp.ops import anomaly_boxes


def resize_map(anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) float -> (height, width) float32, bilinear, half-pixel centres."""
    return cv2.resize(
        np.ascontiguousarray(anomaly_map, np.float32),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )


def boxes_from_map(
    anomaly_map: np.ndarray,
    height: int,
    width: int,
    threshold: float,
    max_boxes: int = 10,
    nms_iou: float = 0.8,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts boxes from one anomaly map (AGSSP, section on AGDP).

    The map is resized to the image; values above the threshold are kept; of each external
    8-connected component (one inside a hole of another does not count) whose contour area reaches
    max((height // 100) * (width // 100), 10) pixels, the bounding box is taken; the ``max_boxes``
    best by the map's maximum inside the box pass through non-maximum suppression.

    Args:
        anomaly_map: (h, w), on any grid.
        height, width: of the image, pixels.
        threshold: in the map's units; values equal to it are left out.
        max_boxes: boxes kept before suppression, at least 1.
        nms_iou: boxes that overlap a better one by more are dropped; in [0, 1].

    Returns:
        boxes (K, 4) float32, XYXY, absolute pixels, in order of falling score, and scores (K,)
        float32, the map's maximum inside each.

    Raises:
        ValueError: the map is not 2-D or not finite, or an argument is out of its range.
    """
    anomaly_map = np.asarray(anomaly_map)
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise ValueError(f"An anomaly map must have shape (h, w), got {anomaly_map.shape}.")
    if not np.isfinite(anomaly_map).all():
        count = int((~np.isfinite(anomaly_map)).sum())
        raise ValueError(f"The anomaly map has {count} NaN or infinite values; make it again.")
    if height < 1 or width < 1:
        raise ValueError(f"Image height and width must be positive, got {height} and {width}.")
    if max_boxes < 1 or not 0 <= nms_iou <= 1 or not np.isfinite(threshold):
        raise ValueError(
            "Expected a finite threshold, max_boxes >= 1 and nms_iou in [0, 1]; got "
            f"{threshold}, {max_boxes} and {nms_iou}."
        )
    found, maxima, counts = anomaly_boxes(
        # A copy, as torch takes no array that is read-only or has negative strides.
        torch.tensor(np.ascontiguousarray(anomaly_map, np.float32))[None],
        torch.tensor([threshold], dtype=torch.float64),
        torch.tensor([max((height // 100) * (width // 100), 10)]),
        # More components than this do not fit into the image.
        min(max_boxes, ((height + 1) // 2) * ((width + 1) // 2)),
        size=(height, width),
    )
    boxes, scores = found[0, : counts[0]].numpy(), maxima[0, : counts[0]].numpy()
    keep = _non_maximum_suppression(boxes, nms_iou)
    return boxes[keep], scores[keep]


def _non_maximum_suppression(boxes: np.ndarray, max_iou: float) -> np.ndarray:
    """Indices of the boxes (K, 4), best first, that no kept box overlaps by more than max_iou."""
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index, box in enumerate(boxes):
        better = boxes[kept]
        sides = np.minimum(better[:, 2:], box[2:]) - np.maximum(better[:, :2], box[:2])
        overlap = sides.clip(min=0).prod(axis=1)
        iou = overlap / (areas[kept] + areas[index] - overlap)
        if not (iou > max_iou).any():
            kept.append(index)
    return np.array(kept, np.int64)
