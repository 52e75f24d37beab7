"""Pseudo-boxes: the external components of a thresholded anomaly map."""

import cv2
import numpy as np
import torch
from torchvision.ops import nms

from detectron2_agssp.ops import anomaly_boxes
from detectron2_agssp.ops.anomaly_boxes import resize_bilinear


def resize_map(anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) float -> (height, width) float32, bilinear, half-pixel centres: the same bits as
    :func:`boxes_from_map` has inside."""
    return resize_bilinear(_to_float32(np.asarray(anomaly_map)).numpy(), height, width)


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
        ValueError: the map is not 2-D or not finite in float32, or an argument is out of its range.
    """
    anomaly_map = np.asarray(anomaly_map)
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise ValueError(f"An anomaly map must have shape (h, w), got {anomaly_map.shape}.")
    full = _to_float32(anomaly_map)
    finite = np.isfinite(full.numpy())
    if not finite.all():
        count = int((~finite).sum())
        raise ValueError(f"The anomaly map has {count} NaN or infinite values; make it again.")
    if height < 1 or width < 1:
        raise ValueError(f"Image height and width must be positive, got {height} and {width}.")
    if max_boxes < 1 or not 0 <= nms_iou <= 1 or not np.isfinite(threshold):
        raise ValueError(
            "Expected a finite threshold, max_boxes >= 1 and nms_iou in [0, 1]; got "
            f"{threshold}, {max_boxes} and {nms_iou}."
        )
    found, maxima, counts = anomaly_boxes(
        full[None],
        torch.tensor([threshold], dtype=torch.float64, device="cpu"),
        torch.tensor([smallest_area(height, width)], device="cpu"),
        # More components than this do not fit into the image.
        min(max_boxes, ((height + 1) // 2) * ((width + 1) // 2)),
        size=(height, width),
    )
    boxes, scores = found[0, : counts[0]], maxima[0, : counts[0]]
    # The overlaps are float32: with the limit rounded alike, one that is equal to it stays.
    keep = nms(boxes, scores, float(np.float32(nms_iou)))
    return boxes[keep].numpy(), scores[keep].numpy()


def smallest_area(height: int, width: int) -> int:
    """Of a component that makes a box, pixels."""
    return max((height // 100) * (width // 100), 10)


def component_masks(full: np.ndarray, threshold: float, boxes: np.ndarray) -> np.ndarray:
    """The components that boxes were cut from, holes filled.

    Args:
        full: (H, W), the map at the size of its image (:func:`resize_map`).
        threshold: in the map's units.
        boxes: (K, 4), of :func:`boxes_from_map` with the same map and threshold.

    Returns:
        (K, H, W) bool; the extents of each mask are its box.
    """
    above = np.asarray(full, np.float32) > np.float32(threshold)
    masks = np.zeros((len(boxes), *above.shape), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int).tolist(), strict=True):
        inside = slice(y0, y1), slice(x0, x1)
        mask[inside] = _spanning_component(above[inside])
    return masks


def _spanning_component(foreground: np.ndarray) -> np.ndarray:
    """The filled component (h, w) bool that touches all four sides of (h, w) bool: two would have
    to cross."""
    # In a frame of background, only holes have no way to the corner.
    ground = np.pad(~foreground, 1, constant_values=True).view(np.uint8)
    _, regions = cv2.connectedComponents(ground, connectivity=4)
    filled = regions[1:-1, 1:-1] != regions[0, 0]
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(
        filled.view(np.uint8), connectivity=8
    )
    sides = statistics[1:, [cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]]
    (number,) = (sides == foreground.shape).all(axis=1).nonzero()[0]
    return labels == number + 1


def _to_float32(anomaly_map: np.ndarray) -> torch.Tensor:
    """A copy: torch takes no array that is read-only or has negative strides."""
    if anomaly_map.dtype == np.float16:
        # As maps are stored; NumPy takes ten times as long to widen them.
        return torch.tensor(np.ascontiguousarray(anomaly_map), device="cpu").float()
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(anomaly_map, np.float32, order="C"))
