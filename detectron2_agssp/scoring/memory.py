"""Distance to the nearest patch of a few normal images (PatchCore, Roth et al. 2022)."""

from collections.abc import Iterable

import torch
from detectron2.config import configurable
from torch import Tensor

from detectron2_agssp.ops import min_cosine_distance
from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    as_batches,
    check_finite,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.coreset import VectorReservoir, greedy_k_center
from detectron2_agssp.scoring.features import build_patch_features


class MemoryScorer(AnomalyScorer):
    """1 - cosine to the nearest of the normal images' patches; an image scores its maximum.

    Args:
        features: module from images (N, 3, H, W) to cell features (N, D, h, w), with
            ``num_channels`` = D, ``stride`` and ``size_divisor``.
        image_size: side in pixels of the square that images are resized to.
        size: patches kept, by greedy k-centre.
        candidates: patches that they are chosen from, a seeded uniform sample of all: the bound
            on memory.
        seed: of the sample and of the choice.
        progress: show a bar while choosing.
    """

    fit_sample = "normal"

    @configurable
    def __init__(
        self,
        *,
        features: torch.nn.Module,
        image_size: int = 256,
        size: int = 4096,
        candidates: int = 100_000,
        seed: int = 0,
        progress: bool = False,
    ):
        super().__init__()
        if not 1 <= size <= candidates:
            raise ValueError(
                f"AGSSP.SCORER.MEMORY needs 1 <= SIZE <= CANDIDATES, got {size} and {candidates}."
            )
        self.features = features
        self.image_size = image_size
        self.take_grid(features)
        self.size, self.candidates, self.seed = size, candidates, seed
        self.progress = progress
        self.register_buffer("memory", torch.zeros(0, features.num_channels))

    @classmethod
    def from_config(cls, cfg):
        scorer = cfg.AGSSP.SCORER
        return {
            # Centred, an ordinary cell's feature is nearly zero, and its direction noise.
            "features": build_patch_features(cfg, center=False),
            "image_size": scorer.IMAGE_SIZE,
            "size": scorer.MEMORY.SIZE,
            "candidates": scorer.MEMORY.CANDIDATES,
            "seed": scorer.SEED,
            "progress": True,
        }

    @torch.no_grad()
    def fit(self, images: Tensor | Iterable[Tensor]) -> "MemoryScorer":
        """Fills the memory from normal images, in one pass.

        Raises:
            ValueError: there are no images, or their features are not finite.
        """
        reservoir = VectorReservoir(self.candidates, self.seed)
        for batch in as_batches(images):
            cells = self.features(batch.to(self.device)).permute(0, 2, 3, 1).flatten(0, 2)
            reservoir.add(torch.nn.functional.normalize(cells, dim=1))
        vectors = reservoir.vectors()
        if vectors is None or len(vectors) == 0:
            raise ValueError(
                "The memory scorer was given no normal images. List some in "
                "AGSSP.SCORER.NORMAL_IMAGES, sample them by AGSSP.SCORER.NORMAL_SAMPLE, or take "
                "calm parts of images by AGSSP.SCORER.CALM_WINDOWS."
            )
        check_finite(vectors, "The normal images' features")
        self.memory = vectors[greedy_k_center(vectors, self.size, self.seed, self.progress)]
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255] -> raw scores in [0, 2].

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if len(self.memory) == 0:
            raise RuntimeError("The memory scorer is not fitted: call fit(normal_images) first.")
        check_images(images)
        features = self.features(images.to(self.device)).permute(0, 2, 3, 1)
        maps = min_cosine_distance(features, self.memory)
        return AnomalyScores(maps, strongest_cells(maps))


@ANOMALY_SCORER_REGISTRY.register()
def memory(cfg) -> MemoryScorer:
    """``AGSSP.SCORER.NAME: memory``."""
    return MemoryScorer(cfg)
