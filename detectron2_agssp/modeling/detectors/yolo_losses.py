"""The losses of YOLO at the points that learn a box, and of class scores everywhere."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss


def distribution_focal_loss(bins: Tensor, distances: Tensor) -> Tensor:
    """Generalized Focal Loss (Li et al., NeurIPS 2020, eq. 6), the mean of a box's four sides: both
    bins next to the true distance grow, the nearer one more.

    Args:
        bins: (M, 4, B) logits of the distributions over 0 ... B - 1.
        distances: (M, 4) true distances in strides; those beyond the bins count as the last.

    Returns:
        (M,)
    """
    last = bins.shape[-1] - 1
    distances = distances.clamp(0, last)
    left = distances.floor().clamp(max=last - 1)
    log_probabilities = bins.log_softmax(dim=-1)
    at_left = log_probabilities.gather(-1, left.long()[..., None])[..., 0]
    at_right = log_probabilities.gather(-1, left.long()[..., None] + 1)[..., 0]
    share = distances - left
    return -((1 - share) * at_left + share * at_right).mean(dim=-1)


def yolo_losses(
    logits: Tensor,
    bins: Tensor,
    boxes: Tensor,
    targets: Tensor,
    classes: Tensor,
    gt_boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    weights: Tensor,
) -> dict[str, Tensor]:
    """Binary cross entropy of the class scores, and, at the M points that learn a box, the CIoU
    loss (Zheng et al., AAAI 2020) and the distribution focal loss, weighted by the points' target
    scores. All are sums, divided by the sum of the target scores (at least 1).

    Args:
        logits: (P, C), of the points of all images that lie on them.
        bins: (P, 4, B) and ``boxes`` (P, 4) XYXY in pixels: predicted.
        targets: (P,) in [0, 1], and ``classes`` (P,) int64: the score that a point learns and for
            which class; ``classes`` is -1 where it learns no box.
        gt_boxes: (P, 4) XYXY in pixels: of the box that a point learns.
        points: (P, 2) x, y in pixels, and ``strides`` (P,).
        weights: (P,) of each point's losses, in [0, 1].

    Returns:
        "loss_yolo_cls", "loss_yolo_box", "loss_yolo_dfl", unweighted against each other.
    """
    positive = classes >= 0
    wanted = torch.zeros_like(logits)
    wanted[positive, classes[positive]] = targets[positive]
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)
    normalizer = targets.sum().clamp(min=1)
    gt_boxes, points, shares = gt_boxes[positive], points[positive], targets * weights
    ciou = complete_box_iou_loss(boxes[positive], gt_boxes)
    distances = torch.cat([points - gt_boxes[:, :2], gt_boxes[:, 2:] - points], dim=1)
    dfl = distribution_focal_loss(bins[positive], distances / strides[positive, None])
    return {
        "loss_yolo_cls": (entropy * weights).sum() / normalizer,
        "loss_yolo_box": (ciou * shares[positive]).sum() / normalizer,
        "loss_yolo_dfl": (dfl * shares[positive]).sum() / normalizer,
    }
