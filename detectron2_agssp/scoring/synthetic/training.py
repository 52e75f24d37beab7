"""Training images with drawn defects, and the loss of the scorer `synthetic`."""

from collections.abc import Iterable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectron2_agssp.scoring.base import as_batches, check_finite
from detectron2_agssp.scoring.coreset import VectorReservoir
from detectron2_agssp.scoring.synthetic.corrupt import add_random_defects

# A cell of which drawn defects cover this share is to be found.
MIN_COVERED = 0.2


class ImagePool:
    """A seeded uniform sample of a stream of images, in memory as bytes, and random draws of it.

    Args:
        images: one batch (N, 3, H, W) in [0, 255] or an iterable of such, read once; of any sizes.
        size: images kept.
        seed: of the sample.
    """

    def __init__(self, images: Tensor | Iterable[Tensor], *, size: int, seed: int):
        sample = VectorReservoir(size, seed)
        kept: dict[int, np.ndarray] = {}
        for batch in as_batches(images):
            check_finite(batch, "Images to fit on")
            first = sample.seen
            sample.add(torch.arange(first, first + len(batch)).view(-1, 1))
            pixels = batch.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
            chosen = sample.vectors()
            for position in chosen[chosen >= first].tolist():
                # A copy: the batch itself is not to be kept.
                kept[position] = pixels[position - first].copy()
            for position in kept.keys() - set(chosen.flatten().tolist()):
                del kept[position]
        self.images = [kept[position] for position in sorted(kept)]

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Random images of one size, mirrored at random, with defects drawn into them.

        Returns:
            images (count, 3, H, W) float32 in [0, 255], and masks of the defects (count, H, W),
            float32, 1 inside.
        """
        shape = self.images[rng.integers(len(self.images))].shape
        alike = [image for image in self.images if image.shape == shape]
        images, masks = [], []
        for _ in range(count):
            image = _mirrored(rng, alike[rng.integers(len(alike))])
            donor = self.images[rng.integers(len(self.images))]
            image, mask = add_random_defects(rng, image, donor)
            images.append(image)
            masks.append(mask)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        return stacked, torch.from_numpy(np.stack(masks)).float()


def _mirrored(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    if rng.random() < 0.5:
        image = cv2.flip(image, 1)
    return cv2.flip(image, 0) if rng.random() < 0.5 else image


def drawn_defect_loss(logits: Tensor, masks: Tensor, ignored: float) -> Tensor:
    """Mean cross-entropy of the drawn cells plus that of the background's easier part.

    Real defects are background here. They are where a network that finds drawn ones is wrong most:
    the background of the highest loss is left out.

    Args:
        logits: (N, h, w).
        masks: (N, H, W), 1 where a defect was drawn.
        ignored: share of each image's background that is left out, in [0, 1).

    Returns:
        a scalar.
    """
    covered = F.adaptive_avg_pool2d(masks[:, None], logits.shape[-2:])[:, 0]
    drawn = (covered > MIN_COVERED).flatten(1)
    # Cells at a defect's rim are neither.
    background = (covered == 0).flatten(1)
    losses = F.binary_cross_entropy_with_logits(
        logits.flatten(1), drawn.to(logits.dtype), reduction="none"
    )
    easy = []
    for loss, is_background in zip(losses, background, strict=True):
        ordered = loss[is_background].sort().values
        easy.append(ordered[: len(ordered) - int(ignored * len(ordered))])
    # Sums over at least one cell: an image may be all defect, or none.
    kept = torch.cat(easy)
    return losses[drawn].sum() / drawn.sum().clamp(min=1) + kept.sum() / max(1, len(kept))
