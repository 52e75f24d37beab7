"""Pseudo-boxes of peaks: each reaches as far as its own height says, not one threshold for all.

One threshold cuts weak defects too small, or not at all, and flows from a strong one into the next.
As the extent of a spot is measured at a share of its maximum (full width at half maximum), so is a
peak's here. Shapes: H x W pixels, K boxes.
"""

import cv2
import numpy as np
import torch
from torchvision.ops import nms

from detectron2_agssp.boxes.components import smallest_area


def boxes_of_peaks(
    full: np.ndarray, threshold: float, extent: float, max_boxes: int = 10, nms_iou: float = 0.8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts boxes around the peaks of one anomaly map.

    A peak is a value above the threshold that none of its 8 neighbours exceeds. From the highest
    on: the 8-connected region around it of values above ``extent`` times its own. The next is the
    highest peak outside the regions so far, and its region may hold those; until ``max_boxes``
    regions are cut. Those of fewer pixels than a component of
    :func:`~detectron2_agssp.boxes.boxes_from_map` needs area are left out, then non-maximum
    suppression.

    Args:
        full: (H, W), the map at the size of its image
            (:func:`~detectron2_agssp.boxes.components.resize_map`).
        threshold: in the map's units; a peak is higher.
        extent: in (0, 1).
        max_boxes: regions cut, at least 1.
        nms_iou: boxes that overlap a better one by more are dropped; in [0, 1].

    Returns:
        boxes (K, 4) float32, XYXY, absolute pixels, in order of falling score; scores (K,) float32,
        the peaks; masks (K, H, W) bool, the regions.

    Raises:
        ValueError: the map has values that are not finite, or an argument is out of its range.
    """
    full = np.asarray(full, np.float32)
    if full.ndim != 2 or not np.isfinite(full).all():
        raise ValueError(
            f"Expected a map (H, W) of finite values, got {full.shape}; make it again."
        )
    if not 0 < extent < 1 or max_boxes < 1 or not 0 <= nms_iou <= 1 or threshold < 0:
        raise ValueError(
            "Expected an extent in (0, 1), max_boxes >= 1, nms_iou in [0, 1] and a threshold of 0 "
            f"or more; got {extent}, {max_boxes}, {nms_iou} and {threshold}."
        )
    boxes, scores, masks = [], [], []
    rest = np.where(full >= cv2.dilate(full, np.ones((3, 3), np.uint8)), full, -np.inf)
    for _ in range(max_boxes):
        row, column = np.unravel_index(rest.argmax(), rest.shape)
        peak = full[row, column]
        if rest[row, column] <= threshold:
            break
        above = (full > np.float32(extent) * peak).view(np.uint8)
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
        number = labels[row, column]
        region = labels == number
        rest[region] = -np.inf
        x, y, width, height, area = statistics[number]
        if area >= smallest_area(*full.shape):
            boxes.append((x, y, x + width, y + height))
            scores.append(peak)
            masks.append(region)
    cut = torch.tensor(boxes, dtype=torch.float32, device="cpu").reshape(-1, 4)
    heights = torch.tensor(scores, dtype=torch.float32, device="cpu")
    keep = nms(cut, heights, nms_iou).numpy()
    kept = np.array(masks, bool).reshape(-1, *full.shape)[keep]
    return cut.numpy()[keep], heights.numpy()[keep], kept
