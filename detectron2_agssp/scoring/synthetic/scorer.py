"""A scorer that teaches itself, on the images it is to score, to find defects drawn into them.

Needs no labels, no normal images and no texts: the drawn defects' places are known. Real defects
in the images are background to it, but they are few, and the background that looks most like a
defect does not count (compare DRAEM, Zavrtanik et al. 2021, which draws into normal images).
"""

from collections.abc import Iterable

import numpy as np
import torch
from detectron2.config import configurable
from torch import Tensor
from tqdm import tqdm

from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    check_finite,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.features import build_patch_features
from detectron2_agssp.scoring.synthetic.decoder import DefectDecoder
from detectron2_agssp.scoring.synthetic.training import ImagePool, drawn_defect_loss

# Batches from which the features' statistics are taken.
STATISTICS_BATCHES = 8


class SyntheticScorer(AnomalyScorer):
    """Log-odds that a cell is of a drawn defect; an image scores its maximum.

    Args:
        features: module whose ``levels`` maps images (N, 3, H, W) to feature levels
            (N, C_l, h_l, w_l), finest first, with ``level_channels``, ``stride`` and
            ``size_divisor``; it learns nothing.
        image_size: side in pixels of the square that images are resized to.
        iterations, batch_size: of the training.
        base_lr: of AdamW at the start; it falls to 0 by a cosine.
        width: channels of the decoder.
        pool: images kept in memory to draw into, a seeded uniform sample of all.
        ignored: share of the background, of the highest loss, that does not count, in [0, 1).
        seed: of the sample, the decoder and what is drawn.
        progress: show a bar while training.
    """

    learned_parts = ("decoder",)

    @configurable
    def __init__(
        self,
        *,
        features: torch.nn.Module,
        image_size: int = 256,
        iterations: int = 600,
        batch_size: int = 8,
        base_lr: float = 0.002,
        width: int = 32,
        pool: int = 1000,
        ignored: float = 0.1,
        seed: int = 0,
        progress: bool = False,
    ):
        super().__init__()
        settings = {"ITERATIONS": iterations, "BATCH_SIZE": batch_size, "WIDTH": width}
        for key, value in {**settings, "POOL": pool, "BASE_LR": base_lr}.items():
            if value <= 0:
                raise ValueError(f"AGSSP.SCORER.SYNTHETIC.{key} must be positive, got {value}.")
        if not 0 <= ignored < 1:
            raise ValueError(f"AGSSP.SCORER.SYNTHETIC.IGNORED must be in [0, 1), got {ignored}.")
        if image_size < 1:
            raise ValueError(f"AGSSP.SCORER.IMAGE_SIZE must be positive, got {image_size}.")
        self.features = features
        self.image_size = image_size
        self.take_grid(features)
        self.iterations, self.batch_size, self.base_lr = iterations, batch_size, base_lr
        self.width, self.pool, self.ignored = width, pool, ignored
        self.seed, self.progress = seed, progress
        self.decoder = self._new_decoder()
        self.register_buffer("num_images", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg):
        scorer = cfg.AGSSP.SCORER
        return {
            "features": build_patch_features(cfg, center=False),
            "image_size": scorer.IMAGE_SIZE,
            "iterations": scorer.SYNTHETIC.ITERATIONS,
            "batch_size": scorer.SYNTHETIC.BATCH_SIZE,
            "base_lr": scorer.SYNTHETIC.BASE_LR,
            "width": scorer.SYNTHETIC.WIDTH,
            "pool": scorer.SYNTHETIC.POOL,
            "ignored": scorer.SYNTHETIC.IGNORED,
            "seed": scorer.SEED,
            "progress": True,
        }

    def _new_decoder(self) -> DefectDecoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            decoder = DefectDecoder(self.features.level_channels, self.width)
        # A third faster on CPUs.
        return decoder.to(memory_format=torch.channels_last)

    @torch.enable_grad()
    def fit(self, images: Tensor | Iterable[Tensor]) -> "SyntheticScorer":
        """Reads the images in one pass, then trains the decoder, always from its start.

        Raises:
            ValueError: there are no images, or they or their features are not finite.
        """
        pool = ImagePool(images, size=self.pool, seed=self.seed)
        if not pool.images:
            raise ValueError("The synthetic scorer was given no images to fit on.")
        rng = np.random.default_rng(self.seed)
        self.decoder = self._new_decoder().to(self.device)
        self.decoder.standardise(
            [self._levels(pool.draw(rng, self.batch_size)[0]) for _ in range(STATISTICS_BATCHES)]
        )
        parameters = list(self.decoder.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=self.base_lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        steps = range(self.iterations)
        with tqdm(steps, desc="train", unit="it", disable=not self.progress) as bar:
            for _ in bar:
                drawn, masks = pool.draw(rng, self.batch_size)
                logits = self.decoder(self._levels(drawn))
                loss = drawn_defect_loss(logits, masks.to(self.device), self.ignored)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        self.decoder.requires_grad_(False).eval()
        self.num_images.fill_(len(pool.images))
        return self

    def _levels(self, images: Tensor) -> list[Tensor]:
        levels = self.features.levels(images.to(self.device))
        for level in levels:
            check_finite(level, "The images' features")
        return levels

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255] -> raw scores on the finest level's
        grid: logits, as probabilities would be 1 for all that is clear.

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if self.num_images == 0:
            raise RuntimeError("The synthetic scorer is not fitted: call fit(images) first.")
        check_images(images)
        maps = self.decoder(self.features.levels(images.to(self.device)))
        return AnomalyScores(maps, strongest_cells(maps))


@ANOMALY_SCORER_REGISTRY.register()
def synthetic(cfg) -> SyntheticScorer:
    """``AGSSP.SCORER.NAME: synthetic``."""
    return SyntheticScorer(cfg)
