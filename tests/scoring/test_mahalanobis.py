"""The mahalanobis scorer against NumPy, and what it must refuse."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from detectron2_agssp.scoring import MahalanobisScorer, TimmPatchFeatures


class LinearFeatures(nn.Module):
    """Means over 4 x 4 pixels, mixed into ``num_channels`` channels."""

    def __init__(self, num_channels=5):
        super().__init__()
        self.num_channels = num_channels
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(num_channels, 3, generator=generator))

    def forward(self, images):
        cells = torch.nn.functional.avg_pool2d(images / 255, 4)
        mixed = torch.einsum("dc,nchw->ndhw", self.mix, cells)
        return mixed + 0.1 * mixed.square()


def make_images(count, height=16, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(count, 3, height, width, generator=generator)


def make_scorer(**settings):
    return MahalanobisScorer(features=LinearFeatures(), **settings)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_against_numpy(shrinkage):
    images, scorer = make_images(6), make_scorer(shrinkage=shrinkage)
    result = scorer.fit(images)(images[:2])
    cells = scorer.features(images).permute(0, 2, 3, 1).reshape(-1, 5).double().numpy()
    covariance = np.cov(cells.T, bias=True)
    covariance += max(shrinkage, 1e-6) * np.trace(covariance) / 5 * np.eye(5)
    deviation = cells[: 2 * 4 * 6] - cells.mean(axis=0)
    squared = np.einsum("nd,de,ne->n", deviation, np.linalg.inv(covariance), deviation)
    assert result.maps.shape == (2, 4, 6)
    assert result.maps.dtype == torch.float32
    np.testing.assert_allclose(result.maps.flatten(), np.sqrt(squared), rtol=2e-3)
    np.testing.assert_array_equal(result.scores, result.maps.flatten(1).amax(dim=1))


def test_batches_and_one_tensor_fit_the_same():
    images = make_images(7)
    whole, parts = make_scorer().fit(images), make_scorer().fit(iter(images.split(3)))
    assert whole.num_cells == parts.num_cells == 7 * 24
    torch.testing.assert_close(whole(images), parts(images))


def test_each_image_is_scored_by_itself():
    scorer = make_scorer().fit(make_images(5))
    images = make_images(4, seed=1)
    together = scorer(images)
    for index in range(4):
        alone = scorer(images[index : index + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[index])
    images[2] = torch.nan
    maps = scorer(images).maps
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[[0, 1, 3]], together.maps[[0, 1, 3]])


def test_fitting_keeps_no_batch():
    """When a batch is asked for, all before the last are gone."""
    seen = []

    def batches():
        for seed in range(6):
            assert sum(reference() is not None for reference in seen) <= 1
            batch = make_images(2, seed=seed)
            seen.append(weakref.ref(batch))
            yield batch
            del batch

    make_scorer().fit(batches())
    assert len(seen) == 6


def test_fitting_again_forgets():
    first, second = make_images(3), make_images(3, seed=1)
    again = make_scorer().fit(first).fit(second)
    torch.testing.assert_close(again.state_dict(), make_scorer().fit(second).state_dict())


def test_state_dict_is_all_there_is_to_keep():
    scorer, images = make_scorer().fit(make_images(3)), make_images(2, seed=1)
    other = make_scorer()
    other.load_state_dict(scorer.state_dict())
    torch.testing.assert_close(other(images), scorer(images), rtol=0, atol=0)


def test_one_image_and_none():
    scorer = make_scorer().fit(make_images(1))
    empty = scorer(make_images(0))
    assert empty.maps.shape == (0, 4, 6)
    assert empty.scores.shape == (0,)


def test_keeps_its_gradients_and_mode_to_itself():
    scorer = make_scorer().fit(make_images(2))
    assert not scorer(make_images(1).requires_grad_()).maps.requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (make_images(0), "no images to fit on"),
        ([], "no images to fit on"),
        (make_images(2) * torch.nan, "variance nan.*not finite"),
        (torch.full((2, 3, 8, 8), 7.0), "images are all alike"),
        (make_images(2)[:, :1], r"RGB, \(N, 3, H, W\).*got shape \(2, 1, 16, 24\)"),
        (make_images(2)[0], r"got shape \(3, 16, 24\)"),
        ([make_images(2).byte()], "torch.uint8"),
    ],
)
def test_unfit_images(images, message):
    scorer = make_scorer()
    with pytest.raises(ValueError, match=message):
        scorer.fit(images)
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(images\)"):
        scorer(make_images(1))


def test_scoring_checks_its_images():
    with pytest.raises(ValueError, match=r"got shape \(2, 1, 16, 24\)"):
        make_scorer().fit(make_images(2))(make_images(2)[:, :1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"shrinkage": -0.1}, "SHRINKAGE must not be negative"), ({"image_size": 0}, "got 0")],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_scorer(**settings)


def test_with_a_network():
    """The defect stands out, and the training mode has no effect."""
    torch.manual_seed(0)
    features = TimmPatchFeatures(model="resnet10t", strides=(8,))
    scorer = MahalanobisScorer(features=features, image_size=64).train()
    images = make_images(6, 64, 96) / 16 + 120
    images[:, :, 24:40, 48:72] += 60 * torch.eye(6)[0].view(6, 1, 1, 1)
    scorer.fit(images)
    maps = scorer(images).maps
    assert maps.shape == (6, 8, 12)
    assert maps[0, 3:5, 6:9].mean() > 1.2 * maps[1:, 3:5, 6:9].mean()
    torch.testing.assert_close(scorer(images[:1]).maps[0], maps[0], rtol=1e-3, atol=1e-3)
