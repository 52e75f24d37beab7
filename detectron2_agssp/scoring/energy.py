"""Energies of a backbone that AGBP trained, as anomaly maps: a second round.

AGBP teaches a backbone's energies to look like anomaly maps. What a network learns from many noisy
maps is what they have in common: the energies can become better than the maps, and those can
teach again, or give AGDP its boxes (self-training, as in Noisy Student, Xie et al. 2020).
"""

from collections.abc import Iterable

import torch
from detectron2.config import configurable
from torch import Tensor

from detectron2_agssp.ops import channel_energy
from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    as_batches,
    check_finite,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.features import build_patch_features
from detectron2_agssp.scoring.patch_features import resize_cells


class EnergyScorer(AnomalyScorer):
    """Sum of squares over each cell's channels, over the level's mean; the mean of the levels.

    Args:
        features: module whose ``levels`` maps images (N, 3, H, W) to feature levels
            (N, C_l, h_l, w_l), finest first, with ``level_channels``, ``stride`` and
            ``size_divisor``.
        image_size: side in pixels of the square that images are resized to.
    """

    @configurable
    def __init__(self, *, features: torch.nn.Module, image_size: int = 256):
        super().__init__()
        if image_size < 1:
            raise ValueError(f"AGSSP.SCORER.IMAGE_SIZE must be positive, got {image_size}.")
        self.features = features
        self.image_size = image_size
        self.take_grid(features)
        # Of each level's energy: levels differ by orders of magnitude.
        self.register_buffer("mean_energy", torch.zeros(len(features.level_channels)))

    @classmethod
    def from_config(cls, cfg):
        return {
            "features": build_patch_features(cfg, center=False),
            "image_size": cfg.AGSSP.SCORER.IMAGE_SIZE,
        }

    def _energies(self, images: Tensor) -> list[Tensor]:
        """The levels' energies, (N, 1, h_l, w_l), finest first."""
        return [channel_energy(level) for level in self.features.levels(images.to(self.device))]

    @torch.no_grad()
    def fit(self, images: Tensor | Iterable[Tensor]) -> "EnergyScorer":
        """Learns each level's mean energy, in one pass.

        Raises:
            ValueError: there are no images, or their energies are not finite or all zero.
        """
        count = 0
        total = torch.zeros_like(self.mean_energy, dtype=torch.float64)
        for batch in as_batches(images):
            count += len(batch)
            for level, energy in enumerate(self._energies(batch)):
                total[level] += energy.mean(dim=(1, 2, 3)).double().sum()
        if count == 0:
            raise ValueError("The energy scorer was given no images to fit on.")
        check_finite(total, "The images' energies")
        if not (total > 0).all():
            raise ValueError(
                "A feature level is zero on all images: use another one (AGSSP.SCORER.IN_FEATURES "
                "or STRIDES), or other weights."
            )
        self.mean_energy.copy_(total / count)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255] -> raw scores on the finest level's grid.

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if not (self.mean_energy > 0).all():
            raise RuntimeError("The energy scorer is not fitted: call fit(images) first.")
        check_images(images)
        energies = self._energies(images)
        grid = energies[0].shape[-2:]
        relative = [
            resize_cells(energy / mean, grid)
            for energy, mean in zip(energies, self.mean_energy, strict=True)
        ]
        maps = torch.cat(relative, dim=1).mean(dim=1)
        return AnomalyScores(maps, strongest_cells(maps))


@ANOMALY_SCORER_REGISTRY.register()
def energy(cfg) -> EnergyScorer:
    """``AGSSP.SCORER.NAME: energy``."""
    return EnergyScorer(cfg)
