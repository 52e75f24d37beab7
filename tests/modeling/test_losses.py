"""The distillation loss: golden numbers, edge cases, gradients."""

import numpy as np
import pytest
import torch

from detectron2_agssp.modeling import distillation_loss, resize_target
from detectron2_agssp.ops import channel_energy

LEVELS = ("res4", "res5")


@pytest.fixture(scope="module")
def expected(golden):
    with np.load(golden("distillation_dev.npz")) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.mark.parametrize("level", LEVELS)
def test_golden_loss_and_gradient(expected, level):
    features = expected[f"{level}/features"].clone().requires_grad_()
    loss = distillation_loss(features, expected["anomaly_map"], "bilinear")
    loss.backward()
    torch.testing.assert_close(loss, expected[f"{level}/loss_l2"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss, expected[f"{level}/loss_cosine"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(features.grad, expected[f"{level}/grad_l2"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("level", LEVELS)
def test_golden_energy_and_targets(expected, level):
    energy = channel_energy(expected[f"{level}/features"])
    torch.testing.assert_close(energy, expected[f"{level}/energy"], rtol=1e-5, atol=1e-5)
    for resize in ("area", "bilinear"):
        target = resize_target(expected["anomaly_map"], *energy.shape[-2:], resize)
        torch.testing.assert_close(target, expected[f"{level}/target_{resize}"])


def loss_by_loop(features, anomaly_maps, resize):
    """2 - 2 cos in float64, an image at a time."""
    losses = []
    for feature, anomaly_map in zip(features.double(), anomaly_maps.double(), strict=True):
        energy = (feature**2).sum(0).flatten()
        target = resize_target(anomaly_map[None], *feature.shape[-2:], resize).flatten()
        losses.append(2 - 2 * (energy @ target) / (energy.norm() * target.norm()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("resize", ["area", "bilinear"])
@pytest.mark.parametrize("count", [1, 3])
def test_equals_two_minus_two_cosines(count, resize):
    torch.manual_seed(0)
    features, maps = torch.randn(count, 5, 4, 9), torch.rand(count, 1, 33, 70)
    loss = distillation_loss(features, maps, resize)
    torch.testing.assert_close(
        loss.double(), loss_by_loop(features, maps, resize), rtol=1e-5, atol=0
    )


def test_area_sees_a_pixel_that_bilinear_misses():
    maps = torch.zeros(1, 1, 16, 32)
    maps[0, 0, 0, 16] = 1
    target = resize_target(maps, 2, 4, "area")
    assert target[0, 0, 0, 2] == 1 / 64
    assert target.sum() == 1 / 64
    assert resize_target(maps, 2, 4, "bilinear").sum() == 0


def test_no_images_cost_nothing():
    features = torch.zeros(0, 5, 4, 9, requires_grad=True)
    loss = distillation_loss(features, torch.zeros(0, 1, 16, 36))
    loss.backward()
    assert loss == 0
    assert features.grad.shape == features.shape


def test_a_map_of_zeros_adds_one_and_no_gradient():
    torch.manual_seed(0)
    features = torch.randn(2, 5, 4, 9, requires_grad=True)
    maps = torch.rand(2, 1, 16, 36)
    maps[1] = 0
    loss = distillation_loss(features, maps)
    loss.backward()
    alone = distillation_loss(features[:1], maps[:1])
    torch.testing.assert_close(loss, (alone + 1) / 2)
    assert features.grad[0].abs().max() > 0
    assert features.grad[1].abs().max() < 1e-6


def test_dead_features_give_finite_gradients():
    features = torch.zeros(2, 5, 4, 9, requires_grad=True)
    loss = distillation_loss(features, torch.rand(2, 1, 16, 36))
    loss.backward()
    assert float(loss) == pytest.approx(1)
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    torch.manual_seed(0)
    features = (300 * torch.randn(2, 64, 6, 8)).to(dtype).requires_grad_()
    maps = torch.rand(2, 1, 96, 128)
    loss = distillation_loss(features, maps)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distillation_loss(features.detach().float(), maps))
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("resize", ["area", "bilinear"])
def test_gradcheck(resize):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    maps = torch.rand(2, 1, 9, 13, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, maps, resize), features)


@pytest.mark.parametrize(
    ("features", "maps", "resize", "message"),
    [
        ((2, 3, 4, 4), (2, 8, 8), "area", r"\(N, 1, H, W\), got \(2, 8, 8\)"),
        ((2, 3, 4, 4), (2, 3, 8, 8), "area", r"\(N, 1, H, W\), got \(2, 3, 8, 8\)"),
        ((2, 3, 4, 4), (1, 1, 8, 8), "area", "2 feature maps but 1 anomaly maps"),
        ((2, 3, 4, 4), (2, 1, 8, 8), "nearest", "'nearest'. Choices: area, bilinear"),
    ],
)
def test_bad_input(features, maps, resize, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(torch.ones(features), torch.ones(maps), resize)
