"""Which points learn which box: task-aligned assignment (TOOD, Feng et al., ICCV 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou


@dataclass(frozen=True)
class Assignment:
    """Of one image with P points and K boxes.

    Attributes:
        matched: (P,) int64, the box that a point learns; -1: none.
        targets: (P,) the score that it learns for the class of its box, in [0, 1]; 0 without one.
    """

    matched: Tensor
    targets: Tensor


@torch.no_grad()
def task_aligned_assignment(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    *,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Per box the ``topk`` points inside it with the best alignment t = s^alpha u^beta; a point
    that several boxes want goes to the one with the highest IoU.

    Targets are t, scaled for each box so that its best point gets the highest IoU u of its points.

    Args:
        scores: (P, C) predicted s, in [0, 1].
        boxes: (P, 4) predicted, XYXY in pixels.
        points: (P, 2) x, y in pixels.
        gt_boxes: (K, 4) XYXY in pixels, of positive area.
        gt_classes: (K,) int64.
    """
    num_points, num_boxes = len(points), len(gt_boxes)
    matched = torch.full((num_points,), -1, dtype=torch.int64, device=points.device)
    targets = scores.new_zeros(num_points)
    if num_boxes == 0 or num_points == 0:
        return Assignment(matched, targets)
    corners = gt_boxes[:, None]
    inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(dim=2)
    iou = box_iou(gt_boxes, boxes)
    alignment = scores[:, gt_classes].T.pow(alpha) * iou.pow(beta)
    # Below every alignment where a point lies outside, also where all alignments are 0.
    ranked = alignment.masked_fill(~inside, -1).topk(min(topk, num_points), dim=1).indices
    wanted = torch.zeros_like(inside).scatter_(1, ranked, True) & inside
    quality, owner = iou.masked_fill(~wanted, -1).max(dim=0)
    positive = quality >= 0
    matched[positive] = owner[positive]
    # (K, P), each point in the row of its box.
    own = torch.zeros_like(wanted).scatter_(0, owner[None], positive[None])
    best_alignment = (alignment * own).amax(dim=1)
    best_iou = (iou * own).amax(dim=1)
    scale = best_iou / best_alignment.clamp(min=torch.finfo(alignment.dtype).tiny)
    scaled = alignment[owner, torch.arange(num_points, device=points.device)] * scale[owner]
    targets[positive] = scaled[positive].clamp(max=1)
    return Assignment(matched, targets)
