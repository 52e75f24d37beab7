"""Defects drawn into images: where the mask says, and nowhere else."""

import numpy as np
import pytest

from detectron2_agssp.scoring.synthetic import corrupt
from detectron2_agssp.scoring.synthetic.corrupt import add_random_defects


def make_pair(height=96, width=128, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal((90, 110, 130), 6, (height, width, 3))
    donor = rng.normal((150, 120, 100), 20, (80, 70, 3))
    return image.astype(np.uint8), donor.astype(np.uint8)


def drawn(seed, image, donor):
    return add_random_defects(np.random.default_rng(seed), image, donor)


def test_images_change_inside_their_masks_and_nowhere_else():
    image, donor = make_pair()
    before = image.copy()
    shares = []
    for seed in range(20):
        changed, mask = drawn(seed, image, donor)
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert (mask.shape, mask.dtype) == (image.shape[:2], bool)
        np.testing.assert_array_equal(changed[~mask], image[~mask])
        shares.append((changed[mask] != image[mask]).any(axis=1).mean())
    assert np.mean(shares) > 0.7
    np.testing.assert_array_equal(image, before)


def test_seeds_differ_and_repeat():
    image, donor = make_pair()
    first, again, other = (drawn(seed, image, donor)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("kind", [*corrupt.CLASSES, corrupt.TRANSPLANT])
def test_every_kind_is_drawn(kind, monkeypatch):
    monkeypatch.setattr(corrupt, "CLASSES", (kind,))
    monkeypatch.setattr(corrupt, "TRANSPLANT_SHARE", 0)
    image, donor = make_pair()
    visible = 0
    for seed in range(5):
        changed, mask = drawn(seed, image, donor)
        difference = np.abs(changed.astype(float) - image)
        visible += mask.any() and difference[mask].mean() > corrupt.MIN_CHANGE
    assert visible >= 3


def test_transplants_have_the_donors_colours(monkeypatch):
    """Red, green and blue of the donor are apart in another way than the image's."""
    monkeypatch.setattr(corrupt, "CLASSES", (corrupt.TRANSPLANT,))
    image, donor = make_pair()
    donor[..., 0], donor[..., 1:] = 250, 0
    redder = []
    for seed in range(10):
        changed, mask = drawn(seed, image, donor)
        inside = changed[mask].astype(float) - image[mask]
        redder.append((inside[:, 0] - inside[:, 2]).mean())
    assert np.mean(redder) > 20


@pytest.mark.parametrize("size", [(4, 4), (1, 40), (3, 200)])
def test_what_does_not_fit_is_left_out(size):
    image, donor = make_pair(*size)
    for seed in range(5):
        changed, mask = drawn(seed, image, donor)
        assert changed.shape == image.shape
        np.testing.assert_array_equal(changed[~mask], image[~mask])


def test_the_donor_may_be_smaller_than_the_patch(monkeypatch):
    monkeypatch.setattr(corrupt, "CLASSES", (corrupt.TRANSPLANT,))
    image, donor = make_pair()
    masks = [drawn(seed, image, donor[:2, :3])[1] for seed in range(5)]
    assert max(mask.sum() for mask in masks) > 100


def test_blank_images_have_no_transplants_of_blank_ones(monkeypatch):
    """Nothing would be seen of those that are as bright; the others are drawn."""
    monkeypatch.setattr(corrupt, "CLASSES", (corrupt.TRANSPLANT,))
    monkeypatch.setattr(corrupt, "MIN_CHANGE", 256.0)
    blank = np.full((64, 64, 3), 100, np.uint8)
    changed, mask = drawn(0, blank, blank)
    assert not mask.any()
    np.testing.assert_array_equal(changed, blank)
