"""Defects drawn into images of real surfaces, with their masks.

Beside the procedural ones of :mod:`~detectron2_agssp.scoring.synthetic.defects`, patches of other
images (compare CutPaste, Li et al. 2021, and DRAEM, Zavrtanik et al. 2021): what belongs elsewhere
is as odd as what is damaged, and has the texture of real surfaces.
"""

import cv2
import numpy as np

from detectron2_agssp.scoring.synthetic.defects import (
    CLASSES,
    draw_defect,
    irregular_blob,
    soft_edge,
    tight_box,
)

TRANSPLANT = "transplant"
# A transplant is drawn as often as this many of the procedural classes.
TRANSPLANT_SHARE = 3
MAX_DEFECTS = 4
# Mean change of a transplant, of [0, 255]: less cannot be seen.
MIN_CHANGE = 5.0
_ATTEMPTS = 10


def add_random_defects(
    rng: np.random.Generator, image: np.ndarray, donor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one to four random defects.

    Args:
        rng: source of all randomness.
        image: (H, W, 3) uint8; not modified.
        donor: (h, w, 3) uint8, another image of the same kind of surface.

    Returns:
        The image with defects, (H, W, 3) uint8, and their mask, (H, W) bool, which is true where
        the image may have changed, and nowhere else. A defect for which the image has no room is
        left out.
    """
    occupied = np.zeros(image.shape[:2], bool)
    direction = rng.uniform(0, np.pi)
    kinds = CLASSES + (TRANSPLANT,) * TRANSPLANT_SHARE
    for kind in rng.choice(kinds, size=rng.integers(1, MAX_DEFECTS + 1)):
        if kind == TRANSPLANT:
            drawn = _transplant(rng, image, donor, occupied)
        else:
            drawn = _draw(rng, image, direction, kind, occupied)
        if drawn is not None:
            image, mask = drawn
            occupied = occupied | mask
    return image, occupied


def _draw(rng, image, direction, kind, occupied):
    """A procedural defect, which changes all colours alike."""
    grey = image.mean(axis=2, dtype=np.float32) / 255
    drawn = draw_defect(rng, grey, direction, kind, occupied)
    if drawn is None:
        return None
    changed, mask = drawn
    return _clipped(image + 255 * (changed - grey)[..., None]), mask


def _transplant(rng, image, donor, occupied):
    """A patch of ``donor``, of random outline, opacity and brightness; turned and mirrored."""
    shape = occupied.shape
    for _ in range(_ATTEMPTS):
        size = np.exp(rng.uniform(np.log(0.015), np.log(0.2))) * min(shape)
        radii = size * np.array([rng.uniform(1.0, 3.0), 1.0]) + 1.0
        roughness = rng.uniform(0.1, 0.5)
        mask = irregular_blob(rng, shape, radii, rng.uniform(0, np.pi), roughness, scale=size)
        if not mask.any() or (mask & occupied).any():
            continue
        x, y, width, height = tight_box(mask)
        window = np.s_[y : y + height, x : x + width]
        inside, covered = mask[window], image[window]
        patch = _view(rng, donor, (height, width))
        # As bright as what it covers, apart from a step of its own.
        step = covered[inside].mean(axis=0) - patch[inside].mean(axis=0)
        patch = (patch + rng.uniform(0, 1) * step) * rng.uniform(0.6, 1.4)
        # With a border, from which the depth is measured, too.
        depth = soft_edge(np.pad(inside, 1), rng.uniform(1.0, 4.0))[1:-1, 1:-1, None]
        blended = _clipped(covered + rng.uniform(0.4, 1.0) * depth * (patch - covered))
        if cv2.absdiff(blended, covered)[inside].mean() >= MIN_CHANGE:
            changed = image.copy()
            changed[window] = blended
            return changed, mask
    return None


def _view(rng, donor: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A random window of ``donor``, turned and mirrored, of (height, width) ``size``, float32."""
    donor = np.rot90(donor, rng.integers(4))
    if rng.random() < 0.5:
        donor = donor[:, ::-1]
    rows, columns = (
        rng.integers(max(0, there - wanted) + 1) + np.arange(wanted)
        for there, wanted in zip(donor.shape[:2], size, strict=True)
    )
    # A donor smaller than the window is repeated.
    return donor[np.ix_(rows % donor.shape[0], columns % donor.shape[1])].astype(np.float32)


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.rint(image).clip(0, 255).astype(np.uint8)
