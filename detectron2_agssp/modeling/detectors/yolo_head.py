"""The head of YOLO: class scores and distributions of box sides at every point of a pyramid.

Shapes: N images, P points of all levels, C classes, B bins of a distribution.
"""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from detectron2_agssp.modeling.backbone.cspdarknet import ConvNormAct, initialize


class YOLOHead(nn.Module):
    """Two branches per level: two 3 x 3 convolutions and a 1 x 1, which share nothing.

    Args:
        input_shape: of the levels, from the finest.
        num_classes: C.
        num_bins: B; a side is at most B - 1 strides away from its point.
        channels: of the convolutions; 0: as many as the finest level has.
        box_channels: of those of the box branch; 0: the same.
        norm: "BN", "SyncBN" or "FrozenBN".
        prior_prob: score of every class before training, in (0, 1).

    Raises:
        ValueError: fewer than 2 bins, or a prior out of its range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_bins: int = 16,
        channels: int = 0,
        box_channels: int = 0,
        norm: str = "BN",
        prior_prob: float = 0.01,
    ):
        super().__init__()
        if num_bins < 2:
            raise ValueError(f"AGSSP.YOLO.NUM_BINS must be at least 2, got {num_bins}.")
        if not 0 < prior_prob < 1:
            raise ValueError(f"AGSSP.YOLO.PRIOR_PROB must be in (0, 1), got {prior_prob}.")
        self.num_classes = num_classes
        self.num_bins = num_bins
        width = channels or input_shape[0].channels
        box_width = box_channels or width
        self.cls_subnet, self.box_subnet = nn.ModuleList(), nn.ModuleList()
        self.cls_score, self.box_bins = nn.ModuleList(), nn.ModuleList()
        for shape in input_shape:
            for subnet, out in ((self.cls_subnet, width), (self.box_subnet, box_width)):
                subnet.append(
                    nn.Sequential(
                        ConvNormAct(shape.channels, out, 3, norm=norm),
                        ConvNormAct(out, out, 3, norm=norm),
                    )
                )
            self.cls_score.append(nn.Conv2d(width, num_classes, 1))
            self.box_bins.append(nn.Conv2d(box_width, 4 * num_bins, 1))
        initialize(self)
        for predictor in self.cls_score:
            nn.init.constant_(predictor.bias, math.log(prior_prob / (1 - prior_prob)))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Levels (N, channels, h, w) -> class logits (N, P, C) and the logits of the distances to
        left, top, right and bottom (N, P, 4, B)."""
        logits, bins = [], []
        for level, feature in enumerate(features):
            score = self.cls_score[level](self.cls_subnet[level](feature))
            logits.append(score.flatten(2).transpose(1, 2))
            side = self.box_bins[level](self.box_subnet[level](feature))
            bins.append(side.flatten(2).transpose(1, 2).unflatten(2, (4, self.num_bins)))
        return torch.cat(logits, dim=1), torch.cat(bins, dim=1)


def level_points(features: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Points (P, 2), x and y in pixels, in the middle of the cells of all levels, row by row; and
    the stride of each point's level (P,)."""
    points, point_strides = [], []
    for feature, stride in zip(features, strides, strict=True):
        height, width = feature.shape[-2:]
        y = (torch.arange(height, device=feature.device) + 0.5) * stride
        x = (torch.arange(width, device=feature.device) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))
        point_strides.append(points[-1].new_full((height * width,), stride))
    return torch.cat(points), torch.cat(point_strides)


def on_image(points: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(P,) bool: whether the points (P, 2) lie on an image of (height, width), not on padding."""
    height, width = image_size
    return (points[:, 0] < width) & (points[:, 1] < height)


def decode_boxes(bins: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., P, 4) XYXY in pixels from the logits (..., P, 4, B): the distance of a side is
    the mean of its distribution over 0 ... B - 1, in strides."""
    distances = bins.softmax(dim=-1) @ torch.arange(
        bins.shape[-1], dtype=bins.dtype, device=bins.device
    )
    distances = distances * strides[:, None]
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
