"""Contrastive denoising: boxes with noise as further queries of the decoder, which learns to undo
it, or, where it is strong, to call the query background (DN-DETR, Li et al., CVPR 2022; DINO)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from detectron2_agssp.modeling.detectors.labels import Truth


@dataclass(frozen=True)
class NoisyBoxes:
    """Of N images, in G groups; a group has each box of an image once with weak and once with
    strong noise. M = 2 G (boxes of the image that has most); places of others stay empty.

    Attributes:
        classes: (N, M) int64.
        boxes: (N, M, 4) x, y of the centre, width and height, as shares of the image's.
        groups: (M,) int64, from 1.
        valid: (N, M) bool, whether there is a box.
        matched: (N, M) int64, the box of the batch to be found again; -1: none, background.
    """

    classes: Tensor
    boxes: Tensor
    groups: Tensor
    valid: Tensor
    matched: Tensor


@torch.no_grad()
def add_noise(
    truth: Truth,
    *,
    num_classes: int,
    max_queries: int,
    label_noise: float,
    box_noise: float,
) -> NoisyBoxes:
    """
    Args:
        num_classes: of the detector.
        max_queries: M at most, but one group is there in any case; 0: none.
        label_noise: share of labels that become another class, in [0, 1].
        box_noise: scale of the shifts of left, top, right and bottom, each by up to a half of the
            box's width or height; where noise is strong, by a half to a whole.
    """
    device, most = truth.boxes.device, max(truth.counts)
    num_groups = max(max_queries // (2 * most), 1) if most and max_queries else 0
    shape = (len(truth.counts), num_groups, 2, most)
    number = torch.tensor(truth.counts, device=device)
    place = torch.arange(most, device=device)
    index = (number.cumsum(0) - number)[:, None] + place
    valid = place < number[:, None]
    index = index.where(valid, 0)[:, None, None].expand(shape)
    strong = torch.tensor([0.0, 1.0], device=device).view(1, 1, 2, 1)

    classes = truth.classes[index]
    if num_classes > 1:
        others = (classes + torch.randint(1, num_classes, shape, device=device)) % num_classes
        classes = others.where(torch.rand(shape, device=device) < label_noise, classes)
    boxes = truth.boxes[index]
    shifts = (torch.rand(*shape, 4, device=device) + strong[..., None]) * box_noise / 2
    signs = torch.randint(0, 2, shifts.shape, device=device) * 2 - 1
    sides = torch.cat([boxes[..., 2:], boxes[..., 2:]], dim=-1)
    corners = box_convert(boxes, "cxcywh", "xyxy") + signs * shifts * sides
    # Strong noise may turn a box inside out.
    first, second = corners.clamp(0, 1).unflatten(-1, (2, 2)).unbind(-2)
    corners = torch.cat([first.minimum(second), first.maximum(second)], dim=-1)
    valid = valid[:, None, None].expand(shape)
    groups = torch.arange(1, num_groups + 1, device=device).repeat_interleave(2 * most)
    return NoisyBoxes(
        classes.flatten(1),
        box_convert(corners, "xyxy", "cxcywh").flatten(1, 3),
        groups,
        valid.flatten(1),
        index.where(valid & (strong == 0), -1).flatten(1),
    )
