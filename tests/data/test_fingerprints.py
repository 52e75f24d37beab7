"""Near-duplicates among very many: what stays alike, and what only looks so."""

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.data.fingerprints import Distinct, fingerprint, most_similar, texture
from tests.data.test_near_duplicates import texture as surface


def as_grey(pixels) -> np.ndarray:
    return np.clip(pixels, 0, 255).astype(np.uint8)


def grain(seed: int, height: int = 90, width: int = 140) -> np.ndarray:
    """A surface with fine grain."""
    noise = np.random.default_rng(seed).normal(0, 12, (height, width))
    return surface(seed, height, width) + noise


def similarity(first, second) -> float:
    views = fingerprint(as_grey(first))[None]
    return float(most_similar(views, fingerprint(as_grey(second))[None, 0])[0][0])


def test_exposure_size_and_mirrors_leave_a_surface_alike():
    image = grain(0)
    ramp = np.linspace(0.7, 1.1, 140)
    smaller = Image.fromarray(as_grey(image)).resize((112, 72), Image.Resampling.BOX)
    for other in (image * ramp + 10, image[:, ::-1], image[::-1], image[::-1, ::-1]):
        assert similarity(image, other) > 0.95
    assert similarity(image, np.asarray(smaller, np.float64)) > 0.8


def test_the_same_edges_on_other_surfaces_do_not():
    """As of one camera: half the image is the dark background, the same round hole in the rest."""
    rows, columns = np.mgrid[:90, :140]
    part = (columns > 60) & ((rows - 45) ** 2 + (columns - 100) ** 2 > 400)
    images = [np.where(part, grain(seed), 20.0) for seed in range(6)]
    small = [np.asarray(Image.fromarray(as_grey(im)).resize((32, 32))).ravel() for im in images]
    assert np.corrcoef(small)[0, 1:].min() > 0.85
    for other in images[1:]:
        assert similarity(images[0], other) < 0.75


def test_the_projection_keeps_correlations():
    textures = np.stack([texture(as_grey(grain(seed))).ravel() for seed in range(30)])
    mixed = textures[:15] + textures[15:]
    exact = [np.corrcoef(a, b)[0, 1] for a, b in zip(mixed, textures[:15], strict=True)]
    assert 0.6 < min(exact) < max(exact) < 0.8
    views = np.stack([fingerprint(as_grey(grain(seed))) for seed in range(40)])
    similar, _ = most_similar(views[:20], views[20:, 0])
    assert similar.max() < 0.65  # of unrelated surfaces


def test_most_similar_among_more_than_a_block_and_among_none(monkeypatch):
    monkeypatch.setattr("detectron2_agssp.data.fingerprints._BLOCK", 3)
    views = np.stack([fingerprint(as_grey(grain(seed))) for seed in range(8)])
    similar, index = most_similar(views, views[::-1, 0])
    assert index.tolist() == list(range(7, -1, -1))
    assert similar.min() > 0.99
    similar, index = most_similar(views, views[:0, 0])
    assert similar.tolist() == [-1] * 8


def test_flat_images_are_like_no_other():
    flat = fingerprint(np.full((40, 60), 90, np.uint8))
    assert not flat.any()
    assert most_similar(flat[None], flat[None, 0])[0].tolist() == [0]


def test_distinct_keeps_the_first_of_each_kind_within_and_across_batches():
    views = np.stack([fingerprint(as_grey(grain(seed))) for seed in (0, 1, 0, 2, 1, 0)])
    distinct = Distinct(6, 0.9)
    assert [found[:2] for found in distinct.add([10, 11, 12], views[:3])] == [(12, 10)]
    assert [found[:2] for found in distinct.add([13, 14, 15], views[3:])] == [(14, 11), (15, 10)]
    assert distinct.chosen == [10, 11, 13]


@pytest.mark.parametrize("value", [0, 1.5, float("nan")])
def test_a_similarity_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"similarity must be in \(0, 1\], got"):
        Distinct(1, value)
