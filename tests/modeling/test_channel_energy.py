"""The sum of squares over channels."""

import pytest
import torch

from detectron2_agssp.ops import channel_energy


@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 1, 1, 1), (0, 5, 3, 7), (2, 0, 3, 7)])
def test_equals_a_loop(shape):
    features = torch.randn(shape)
    energy = channel_energy(features)
    assert energy.shape == (shape[0], 1, *shape[2:])
    expected = torch.zeros(energy.shape)
    for channel in range(shape[1]):
        expected += features[:, channel : channel + 1] ** 2
    torch.testing.assert_close(energy, expected)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_is_at_least_float32(dtype, result):
    energy = channel_energy(torch.full((1, 3, 2, 2), 1000.0, dtype=dtype))
    assert energy.dtype == result
    torch.testing.assert_close(energy, torch.full((1, 1, 2, 2), 3e6, dtype=result), rtol=0, atol=0)


def test_memory_layout_does_not_matter():
    features = torch.randn(2, 5, 3, 7)
    expected = channel_energy(features)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(channel_energy(channels_last), expected)
    torch.testing.assert_close(channel_energy(features.mT), expected.mT)


def test_gradcheck():
    features = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(channel_energy, features)


@pytest.mark.parametrize("features", [torch.ones(3, 4, 4), torch.ones(1, 3, 4, 4).int()])
def test_bad_input(features):
    with pytest.raises(ValueError, match=r"floating-point features \(N, C, H, W\), got"):
        channel_energy(features)
