"""The compiled energy, and the pure-PyTorch one, against a loop in float64; what the dispatcher,
the compiler and autograd ask of them."""

import pytest
import torch

from detectron2_agssp.ops import channel_energy
from tests.ops.implementations import only_compiled, random

pytestmark = pytest.mark.usefixtures("implementation")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# The last has enough pixels for channels to be added together, and a rest; the second is 1 element.
SHAPES = ((2, 5, 3, 7), (1, 1, 1, 1), (0, 5, 3, 7), (2, 0, 3, 7), (1, 3, 33, 64), (2, 19, 1, 4097))


def by_hand(features):
    energy = torch.zeros((len(features), 1, *features.shape[2:]), dtype=torch.float64)
    for channel in range(features.shape[1]):
        energy[:, 0] += features[:, channel].double() ** 2
    return energy


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "channels_first_of_all": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": lambda x: torch.nn.functional.pad(x, (1, 2, 1, 0, 2, 1))[:, 2:-1, 1:, 1:-2],
    "strided": lambda x: torch.stack([x, x + 1], dim=-1).flatten(-2)[..., ::2],
    "offset": lambda x: torch.cat([x.flatten().new_zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(shape, layout, dtype):
    features = layout(random(*shape, dtype=dtype))
    weights = random(shape[0], 1, *shape[2:], seed=1)
    leaf = features.detach().requires_grad_()
    energy = channel_energy(leaf)
    assert energy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(energy.double(), by_hand(features), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(energy, leaf, weights.to(energy.dtype))
    assert gradient.dtype == dtype
    expected = 2 * weights.double() * features.double()
    torch.testing.assert_close(gradient, expected.to(dtype), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("layout", [LAYOUTS["contiguous"], LAYOUTS["channels_last"]])
def test_gradcheck_and_gradgradcheck(layout):
    features = layout(random(2, 3, 2, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(channel_energy, features)
    assert torch.autograd.gradgradcheck(channel_energy, features)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spoils_its_pixel_only(bad):
    features = random(2, 3, 4, 5)
    expected = channel_energy(features)
    features[1, 2, 3, 4] = bad
    energy = channel_energy(features)
    assert not energy[1, 0, 3, 4].isfinite()
    energy[1, 0, 3, 4] = expected[1, 0, 3, 4]
    torch.testing.assert_close(energy, expected, rtol=0, atol=0)


def test_subnormal_and_largest_halves():
    features = torch.tensor([2.0**-24, 2.0**-15, 65504, 0.0], dtype=torch.float16).view(1, 1, 2, 2)
    torch.testing.assert_close(channel_energy(features).double(), by_hand(features))


def test_autocast():
    features = random(1, 8, 4, 4, dtype=torch.bfloat16).requires_grad_()
    with torch.autocast(features.device.type, torch.bfloat16):
        energy = channel_energy(features)
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy.double(), by_hand(features.detach()), rtol=1e-5, atol=0)
    energy.sum().backward()
    assert features.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("layout", [LAYOUTS["contiguous"], LAYOUTS["channels_last"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 33, 17), (1, 7, 260, 140), (2, 6, 97, 61)], ids=str)
def test_threads_change_nothing(threads, shape, layout, dtype):
    """Also where a map is more than one tile, and where its tiles depend on the threads."""
    features = layout(random(*shape, dtype=dtype))
    results = [channel_energy(features) for _ in threads((1, 2, 1, 3))]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@only_compiled
def test_opcheck():
    ops = torch.ops.detectron2_agssp
    for layout in (LAYOUTS["contiguous"], LAYOUTS["channels_last"], LAYOUTS["sliced"]):
        features = layout(random(2, 4, 3, 5)).detach().requires_grad_()
        torch.library.opcheck(ops.channel_energy.default, (features,))
        grad = random(2, 1, 3, 5, seed=1).requires_grad_()
        torch.library.opcheck(ops.channel_energy_backward.default, (grad, features))


@only_compiled
def test_backward_refuses_another_shape():
    with pytest.raises(ValueError, match=r"must be \(N, 1, H, W\)"):
        torch.ops.detectron2_agssp.channel_energy_backward(random(2, 1, 3, 4), random(2, 4, 3, 5))


def test_torch_compile():
    def loss(features):
        return (channel_energy(features) * 2).sum()

    features, same = (random(2, 4, 3, 5).requires_grad_() for _ in range(2))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), loss(same))
    compiled(features).backward()
    loss(same).backward()
    torch.testing.assert_close(features.grad, same.grad)


@pytest.mark.slow
@only_compiled
def test_more_than_2_to_the_31_elements():
    """4 GiB: offsets past 32 bits, in the last image."""
    features = torch.zeros((2, 1025, 1024, 1024), dtype=torch.bfloat16)
    features[1, -1, -1, -1] = 3
    energy = channel_energy(features)
    assert energy[1, 0, -1, -1] == 9
    assert energy.sum() == 9
