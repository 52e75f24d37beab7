"""The losses of DINO: queries are matched with boxes one to one (DETR, Carion et al., ECCV 2020),
or known to be theirs (denoising).

Shapes: L predictions (decoder layers), N images, Q queries, C classes, K boxes of all images, one
image after the other. Boxes are x, y of the centre, width and height, as shares of the image's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import (
    box_convert,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from detectron2_agssp.modeling.detectors.labels import Truth

# A cost of what is no number: training is to end by its loss, which says what to try.
NO_NUMBER = 1e9


@torch.no_grad()
def match(
    logits: Tensor,
    boxes: Tensor,
    valid: Tensor,
    truth: Truth,
    *,
    weights: tuple[float, float, float],
    alpha: float,
    gamma: float,
) -> Tensor:
    """The box of the batch that each query learns, (L, N, Q) int64; -1: none.

    The sum of costs is least (Hungarian matching): focal loss of the box's class minus that of
    background, L1 distance, and negative GIoU, times ``weights``.

    Args:
        logits: (L, N, Q, C).
        boxes: (L, N, Q, 4).
        valid: (N, Q) bool; other queries match nothing.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    matched = torch.full(logits.shape[:3], -1)
    start = 0
    for image, count in enumerate(truth.counts):
        own, rows = slice(start, start + count), valid[image].nonzero()[:, 0]
        found, wanted = boxes[:, image, rows], truth.boxes[own]
        cost = _class_cost(logits[:, image, rows], truth.classes[own], alpha, gamma) * weights[0]
        cost += weights[1] * (found[:, :, None] - wanted).abs().sum(dim=-1)
        overlap = generalized_box_iou(_corners(found.flatten(0, 1)), _corners(wanted))
        cost -= weights[2] * overlap.view_as(cost)
        rows = rows.cpu()
        for layer, costs in enumerate(cost.nan_to_num(NO_NUMBER, NO_NUMBER, -NO_NUMBER).cpu()):
            queries, indices = map(torch.from_numpy, linear_sum_assignment(costs))
            matched[layer, image, rows[queries]] = start + indices
        start += count
    return matched.to(logits.device)


def _class_cost(logits: Tensor, classes: Tensor, alpha: float, gamma: float) -> Tensor:
    """(L, Q, C), (K,) -> (L, Q, K): how much more loss the class makes than background."""
    logits = logits[:, :, classes]
    scores = logits.sigmoid()
    of_class = -alpha * (1 - scores).pow(gamma) * F.logsigmoid(logits)
    of_background = -(1 - alpha) * scores.pow(gamma) * F.logsigmoid(-logits)
    return of_class - of_background


def set_losses(
    logits: Tensor,
    boxes: Tensor,
    valid: Tensor,
    matched: Tensor,
    truth: Truth,
    *,
    alpha: float,
    gamma: float,
) -> dict[str, Tensor]:
    """Sums over layers and images: the focal loss (Lin et al., ICCV 2017) of all valid queries, and
    the L1 and GIoU (Rezatofighi et al., CVPR 2019) losses of those that learn a box; what a query
    learns of a box has the box's weight.

    Args:
        logits: (L, N, Q, C).
        boxes: (L, N, Q, 4).
        valid: (N, Q) bool.
        matched: (L, N, Q) int64, what :func:`match` returns.

    Returns:
        "cls", "l1" and "giou".
    """
    positive = matched >= 0
    indices = matched[positive]
    wanted = torch.zeros_like(logits)
    wanted[positive, truth.classes[indices]] = 1
    weights = torch.ones_like(logits[..., 0])
    weights[positive] = truth.weights[indices]
    focal = sigmoid_focal_loss(logits, wanted, alpha, gamma).sum(dim=-1) * weights
    found, boxes = boxes[positive], truth.boxes[indices]
    overlap_loss = generalized_box_iou_loss(_corners(found), _corners(boxes))
    return {
        "cls": focal[valid.expand_as(focal)].sum(),
        "l1": ((found - boxes).abs().sum(dim=-1) * weights[positive]).sum(),
        "giou": (overlap_loss * weights[positive]).sum(),
    }


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")
