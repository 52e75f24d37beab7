"""Local features of images: from timm models, Detectron2's backbones or CLIP's patches.

Shapes: N images, H x W pixels, L feature levels, C_l channels a level, D = sum of C_l,
h x w cells of the finest level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.modeling.backbone.timm_models import create_feature_extractor, feature_maps
from detectron2_agssp.scoring.base import check_images
from detectron2_agssp.utils.precision import check_precision


class PatchFeatures(nn.Module):
    """Features of every cell: levels averaged locally, unit-normalised, concatenated, centred.

    A subclass gives :meth:`levels`.

    Args:
        level_channels: C_l.
        strides: pixels a cell, per level, finest first.
        size_divisor: the sides of images must be multiples of it; 1 if any size will do.
        pool_size: side of the local average, cells, odd.
        center: subtract the image's mean feature.
        precision: "fp32", "bf16" or "fp16", of the network; the features are float32.
    """

    def __init__(
        self,
        *,
        level_channels: tuple[int, ...],
        strides: tuple[int, ...],
        size_divisor: int = 1,
        pool_size: int = 3,
        center: bool = True,
        precision: str = "fp32",
    ):
        super().__init__()
        if pool_size < 1 or pool_size % 2 == 0:
            raise ValueError(f"AGSSP.SCORER.POOL_SIZE must be odd and positive, got {pool_size}.")
        self.level_channels = tuple(level_channels)
        self.num_channels = sum(level_channels)
        self.stride = strides[0]
        self.size_divisor = size_divisor
        self.pool_size = pool_size
        self.center = center
        self.dtype = check_precision(precision, "AGSSP.SCORER.PRECISION")

    def train(self, mode: bool = True):
        """Stays in evaluation mode: a scorer's features must not depend on the batch."""
        return super().train(False)

    def levels(self, images: Tensor) -> list[Tensor]:
        """RGB images (N, 3, H, W), float in [0, 255] -> (N, C_l, h_l, w_l), finest first."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """RGB images (N, 3, H, W), float in [0, 255] -> features (N, D, h, w), float32."""
        check_images(images)
        aligned = []
        for level in self.levels(images):
            level = F.normalize(average_neighbours(level.float(), self.pool_size), dim=1)
            grid = aligned[0].shape[-2:] if aligned else level.shape[-2:]
            aligned.append(resize_cells(level, grid))
        features = torch.cat(aligned, dim=1)
        if self.center:
            features = features - features.mean(dim=(2, 3), keepdim=True)
        return features


class TimmPatchFeatures(PatchFeatures):
    """Of a timm model.

    Args:
        model: a timm model name that supports ``features_only``.
        weights: see :func:`~detectron2_agssp.modeling.backbone.timm_models.load_timm_weights`.
        strides: the levels, as strides in pixels; the smallest gives the grid.
        blocks: the levels of a plain Vision Transformer instead, as its blocks, from 1.
        settings: see :class:`PatchFeatures`.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str = "",
        strides: tuple[int, ...] = (8, 16),
        blocks: tuple[int, ...] = (),
        **settings,
    ):
        if not strides and not blocks:
            raise ValueError("AGSSP.SCORER.STRIDES is empty: give one or more, e.g. (8, 16).")
        extractor = create_feature_extractor(
            model,
            weights=weights,
            strides=() if blocks else tuple(sorted(strides)),
            blocks=tuple(blocks),
        )
        super().__init__(
            level_channels=extractor.channels,
            strides=extractor.strides,
            size_divisor=extractor.strides[-1],
            **settings,
        )
        net = extractor.net.requires_grad_(False).eval()
        # Convolutions run up to twice as fast on this layout, on CPUs and GPUs alike.
        self.net = net.to(self.dtype, memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(extractor.pixel_mean).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(extractor.pixel_std).view(1, 3, 1, 1), False)

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        pixels = ((images.float() - self.mean) / self.std).to(self.dtype)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return [level.float() for level in feature_maps(self.net, pixels)]


def average_neighbours(level: Tensor, size: int) -> Tensor:
    """Mean over size x size cells, of those that exist: (N, C, h, w) -> the same shape."""
    if size == 1:
        return level
    return F.avg_pool2d(level, size, 1, size // 2, count_include_pad=False)


def resize_cells(level: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *grid), bilinear, half-pixel centres."""
    if level.shape[-2:] == torch.Size(grid):
        return level
    return F.interpolate(level, size=tuple(grid), mode="bilinear", align_corners=False)
