"""How images look to a network, as one vector each: by the backbone of a run's detector, or by the
patch features of the scorers."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.scoring.features import build_patch_features

# An image (H, W, 3) uint8, RGB -> (D,) float32.
Look = Callable[[np.ndarray], np.ndarray]


def look_of_detector(cfg, model: nn.Module) -> Look:
    """By the levels of a detector's backbone, at the size that it detects at."""

    def look(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = model.preprocess_image([model_input(cfg, image)])
            return _summary(list(model.backbone(batch.tensor).values()))

    return look


def look_of_scorer(cfg) -> Look:
    """By the patch features of ``cfg.AGSSP.SCORER``."""
    features = build_patch_features(cfg, center=False)
    side = cfg.AGSSP.SCORER.IMAGE_SIZE

    def look(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
        return _summary([features(pixels)])

    return look


def _summary(levels: list[Tensor]) -> np.ndarray:
    """Mean and spread of the unit-normalised channels over the cells of each level (1, C, h, w):
    texture, and how uneven it is."""
    parts = []
    for level in levels:
        cells = F.normalize(level[0].flatten(1).float(), dim=0)
        parts += [cells.mean(dim=1), cells.std(dim=1, correction=0)]
    vector = torch.cat(parts).cpu().numpy()
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
