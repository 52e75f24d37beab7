"""Mahalanobis distance of local features to those of the whole unlabelled set.

Needs no labels, no descriptions and no normal images: defects are rare, so the mean and covariance
of all cells describe the normal surface (compare PaDiM, Defard et al. 2021, which keeps one
Gaussian a position; here one Gaussian serves all positions, since parts are not aligned).
"""

from collections.abc import Iterable

import torch
from detectron2.config import configurable
from torch import Tensor

from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    as_batches,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.features import build_patch_features


class MahalanobisScorer(AnomalyScorer):
    """sqrt((f - mu)^T Sigma^-1 (f - mu)) for every cell's feature f; an image scores its maximum.

    Args:
        features: module from images (N, 3, H, W) to cell features (N, D, h, w), with
            ``num_channels`` = D, ``stride`` and ``size_divisor``.
        image_size: side in pixels of the square that images are resized to.
        shrinkage: ridge added to the covariance's diagonal, as a share of its mean variance.
    """

    @configurable
    def __init__(self, *, features: torch.nn.Module, image_size: int = 384, shrinkage: float = 0.3):
        super().__init__()
        if shrinkage < 0:
            raise ValueError(
                f"AGSSP.SCORER.MAHALANOBIS.SHRINKAGE must not be negative, got {shrinkage}."
            )
        if image_size < 1:
            raise ValueError(f"AGSSP.SCORER.IMAGE_SIZE must be positive, got {image_size}.")
        self.features = features
        self.image_size = image_size
        self.take_grid(features)
        self.shrinkage = shrinkage
        channels = features.num_channels
        self.register_buffer("mean", torch.zeros(channels))
        # W with W W^T = Sigma^-1: the distance is the norm of W^T (f - mu).
        self.register_buffer("whitening", torch.zeros(channels, channels))
        self.register_buffer("num_cells", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg):
        scorer = cfg.AGSSP.SCORER
        return {
            "features": build_patch_features(cfg),
            "image_size": scorer.IMAGE_SIZE,
            "shrinkage": scorer.MAHALANOBIS.SHRINKAGE,
        }

    @torch.no_grad()
    def fit(self, images: Tensor | Iterable[Tensor]) -> "MahalanobisScorer":
        """One streaming pass; memory is D x D, however many images there are.

        Raises:
            ValueError: there are no images, or their features are not finite or all alike.
        """
        channels = self.features.num_channels
        # float64: sums over up to billions of cells.
        count = 0
        total = torch.zeros(channels, dtype=torch.float64, device=self.device)
        scatter = torch.zeros(channels, channels, dtype=torch.float64, device=self.device)
        for batch in as_batches(images):
            cells = self.features(batch.to(self.device)).permute(0, 2, 3, 1).reshape(-1, channels)
            cells = cells.double()
            count += len(cells)
            total += cells.sum(dim=0)
            scatter += cells.T @ cells
        if count == 0:
            raise ValueError("The mahalanobis scorer was given no images to fit on.")
        mean = total / count
        covariance = scatter / count - torch.outer(mean, mean)
        variance = covariance.diagonal().mean()
        if not variance > 1e-12:
            raise ValueError(
                f"The features of the {count} cells to fit on have variance {variance.item():.3g}: "
                "the images are all alike or not finite. Fit on more, and on real, images."
            )
        covariance.diagonal().add_(max(self.shrinkage, 1e-6) * variance)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance)))
        self.num_cells.fill_(count)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255] -> raw scores on the features' grid.

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if self.num_cells == 0:
            raise RuntimeError("The mahalanobis scorer is not fitted: call fit(images) first.")
        check_images(images)
        features = self.features(images.to(self.device))
        deviation = (features - self.mean.view(1, -1, 1, 1)).permute(0, 2, 3, 1)
        maps = (deviation @ self.whitening).norm(dim=-1)
        return AnomalyScores(maps, strongest_cells(maps))


@ANOMALY_SCORER_REGISTRY.register()
def mahalanobis(cfg) -> MahalanobisScorer:
    """``AGSSP.SCORER.NAME: mahalanobis``."""
    return MahalanobisScorer(cfg)
