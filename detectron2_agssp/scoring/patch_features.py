"""Local features of images from any timm model.

Shapes: N images, H x W pixels, L feature levels, C_l channels a level, D = sum of C_l,
h x w cells of the finest level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.modeling.backbone.timm_models import create_feature_extractor, feature_maps
from detectron2_agssp.scoring.base import check_images


class TimmPatchFeatures(nn.Module):
    """Features of every cell: levels averaged locally, unit-normalised, concatenated, centred.

    Args:
        model: a timm model name that supports ``features_only``.
        weights: see :func:`~detectron2_agssp.modeling.backbone.timm_models.load_timm_weights`.
        strides: the levels, as strides in pixels; the smallest gives the grid.
        pool_size: side of the local average, cells, odd.
        center: subtract the image's mean feature.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str = "",
        strides: tuple[int, ...] = (8, 16),
        pool_size: int = 3,
        center: bool = True,
    ):
        super().__init__()
        if pool_size < 1 or pool_size % 2 == 0:
            raise ValueError(f"AGSSP.SCORER.POOL_SIZE must be odd and positive, got {pool_size}.")
        if not strides:
            raise ValueError("AGSSP.SCORER.STRIDES is empty: give one or more, e.g. (8, 16).")
        extractor = create_feature_extractor(model, weights=weights, strides=tuple(sorted(strides)))
        self.net = extractor.net.requires_grad_(False).eval()
        self.level_channels = extractor.channels
        self.num_channels = sum(extractor.channels)
        self.pool_size = pool_size
        self.center = center
        self.register_buffer("mean", torch.tensor(extractor.pixel_mean).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(extractor.pixel_std).view(1, 3, 1, 1), False)

    def train(self, mode: bool = True):
        """Stays in evaluation mode: a scorer's features must not depend on the batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """RGB images (N, 3, H, W), float in [0, 255] -> features (N, D, h, w), float32."""
        check_images(images)
        levels = feature_maps(self.net, (images.float() - self.mean) / self.std)
        grid = levels[0].shape[-2:]
        aligned = []
        for level in levels:
            level = level.float()
            if self.pool_size > 1:
                level = F.avg_pool2d(
                    level, self.pool_size, 1, self.pool_size // 2, count_include_pad=False
                )
            level = F.normalize(level, dim=1)
            if level.shape[-2:] != grid:
                level = F.interpolate(level, size=grid, mode="bilinear", align_corners=False)
            aligned.append(level)
        features = torch.cat(aligned, dim=1)
        if self.center:
            features = features - features.mean(dim=(2, 3), keepdim=True)
        return features
