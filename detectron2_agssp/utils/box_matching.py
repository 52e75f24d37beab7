"""COCO's matching of the boxes of one image with its labels.

Shapes: K boxes, G labels.
"""

import numpy as np
from pycocotools import mask as coco_masks


def coco_iou(boxes: np.ndarray, labels: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """Of boxes (K, 4) and labels (G, 4), both XYXY: their IoU (K, G); of labels where ``is_crowd``
    (G,) bool, the share of the box that lies in them."""
    if len(boxes) == 0 or len(labels) == 0:
        return np.zeros((len(boxes), len(labels)))
    both = (
        np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1, dtype=np.float64)
        for xyxy in (boxes, labels)
    )
    return coco_masks.iou(*both, is_crowd.astype(np.uint8))


def match_boxes(
    iou: np.ndarray, is_crowd: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's greedy matching of an image's boxes with its labels.

    Args:
        iou: (K, G), boxes of falling score by labels; of a crowd label, the share of the box that
            lies in it.
        is_crowd: (G,) bool; such a label may be matched any number of times.
        min_iou: in (0, 1].

    Returns:
        which boxes are matched with a label that is not a crowd (K,) bool, and which with a crowd
        only (K,) bool.
    """
    correct, ignored = np.zeros(len(iou), bool), np.zeros(len(iou), bool)
    free = ~is_crowd
    for index, overlaps in enumerate(iou):
        candidates = np.flatnonzero(free & (overlaps >= min_iou))
        if candidates.size:
            correct[index] = True
            free[candidates[overlaps[candidates].argmax()]] = False
        else:
            ignored[index] = (is_crowd & (overlaps >= min_iou)).any()
    return correct, ignored
