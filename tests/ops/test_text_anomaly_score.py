"""The softmax over two texts against plain loops, in every dtype and layout."""

import math

import pytest
import torch

from detectron2_agssp.ops import text_anomaly_score
from tests.ops.implementations import only_compiled, random
from tests.ops.layouts import contiguous, cosine, strided, transposed

pytestmark = pytest.mark.usefixtures("implementation")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def by_hand(features, text, temperature):
    """(N, L, D), (2, D) -> (N, L), by loops over Python floats."""
    normal, anomaly = text.double().tolist()
    return torch.tensor(
        [
            [softmax(cosine(x, normal), cosine(x, anomaly), temperature) for x in image]
            for image in features.double().tolist()
        ]
    ).reshape(features.shape[:2])


def softmax(normal, anomaly, temperature):
    weights = [math.exp((side - max(normal, anomaly)) / temperature) for side in (normal, anomaly)]
    return weights[1] / sum(weights)


def without_the_class_token(tensor):
    """As the maps take it: a slice of the tokens."""
    if tensor.ndim < 3:
        return tensor
    return torch.cat([tensor[:, :1], tensor], dim=1)[:, 1:]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [contiguous, strided, transposed, without_the_class_token])
@pytest.mark.parametrize("shape", [(2, 7, 5), (3, 1, 4), (1, 1, 1)])
def test_against_loops(shape, layout, dtype):
    features, text = layout(random(*shape, dtype=dtype)), layout(random(2, shape[-1], dtype=dtype))
    result = text_anomaly_score(features, text, 0.07)
    assert result.dtype == torch.float32
    expected = by_hand(features, text, 0.07)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_expanded_features():
    features = random(1, 1, 6).expand(2, 5, 6)
    result = text_anomaly_score(features, random(2, 6, seed=1))
    torch.testing.assert_close(result, by_hand(features, random(2, 6, seed=1), 0.07))


@pytest.mark.parametrize("temperature", [0.001, 0.01, 1, 100.0])
def test_temperature(temperature):
    features, text = random(2, 9, 5), random(2, 5, seed=1)
    result = text_anomaly_score(features, text, temperature)
    expected = by_hand(features, text, temperature)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-5)
    assert result.isfinite().all()


def test_texts_that_are_nearly_the_same():
    """Their difference is not lost in rounding."""
    text = random(1, 64).repeat(2, 1)
    text[1] += 1e-3 * random(64, seed=1)
    features = random(2, 9, 64, seed=2)
    result = text_anomaly_score(features, text)
    torch.testing.assert_close(result, by_hand(features, text, 0.07), rtol=0, atol=2e-6)
    assert result.std() > 1e-4


def test_sides_and_zero():
    text = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    features = torch.tensor([[[3.0, 0.0], [0.0, 0.1], [1.0, 1.0], [0.0, 0.0]]])
    low = 1 / (1 + math.exp(1 / 0.07))
    torch.testing.assert_close(
        text_anomaly_score(features, text), torch.tensor([[low, 1 - low, 0.5, 0.5]])
    )


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
def test_nothing_to_score(shape):
    result = text_anomaly_score(torch.zeros(shape), random(2, 3))
    assert result.shape == shape[:2]
    assert result.dtype == torch.float32


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_a_feature_that_is_not_finite_spoils_itself_only(bad):
    features, text = random(2, 3, 4), random(2, 4, seed=1)
    expected = text_anomaly_score(features, text)
    features[1, 2, 0] = bad
    result = text_anomaly_score(features, text)
    assert result[1, 2].isnan()
    result[1, 2] = expected[1, 2]
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    text[0, 0] = bad
    assert text_anomaly_score(features, text).isnan().all()


@pytest.mark.parametrize(
    ("features", "text", "received"),
    [
        (random(3, 4), random(2, 4), r"got \(3, 4\)"),
        (random(1, 3, 4), random(3, 4), r"and \(3, 4\)"),
        (random(1, 3, 4), random(2, 5), r"and \(2, 5\)"),
        (random(1, 3, 0), random(2, 0), r"got \(1, 3, 0\)"),
        (torch.ones(1, 3, 4, dtype=torch.int32), random(2, 4), "torch.int32"),
        (random(1, 3, 4), torch.ones(2, 4, dtype=torch.int64), "torch.int64"),
        (random(1, 3, 4), random(2, 4).to("meta"), "on cpu and .* on meta"),
    ],
)
def test_bad_arguments(features, text, received):
    with pytest.raises(ValueError, match=rf"needs floating-point features.*{received}"):
        text_anomaly_score(features, text)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=f"must be positive, got {temperature}"):
        text_anomaly_score(random(1, 2, 3), random(2, 3), temperature)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 15, 16, 31, 33, 64, 100])
def test_around_the_width_of_vectors(channels, dtype):
    features = random(2, 3, channels, dtype=dtype)
    text = random(2, channels, seed=1)
    expected = by_hand(features, text, 0.07)
    torch.testing.assert_close(text_anomaly_score(features, text), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [1, 2, 4, 5, 9])
def test_layers_are_averaged(number, dtype):
    layers = [random(2, 8, 20, seed=seed, dtype=dtype)[:, 1:] for seed in range(number)]
    text = random(2, 20, seed=100)
    expected = torch.stack([by_hand(layer, text, 0.07) for layer in layers]).mean(dim=0)
    for sequence in (layers, tuple(layers)):
        result = text_anomaly_score(sequence, text)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_layers_of_other_layouts():
    layers = [layout(random(2, 7, 5)) for layout in (contiguous, strided, transposed)]
    text = random(2, 5, seed=1)
    torch.testing.assert_close(text_anomaly_score(layers, text), by_hand(layers[0], text, 0.07))


@pytest.mark.parametrize(
    ("layers", "received"),
    [
        ([], "at least one layer"),
        ([random(2, 3, 4), random(2, 5, 4)], r"\(2, 3, 4\) torch.float32 and \(2, 5, 4\)"),
        ([random(2, 3, 4), random(2, 3, 4).half()], "torch.float32 and .* torch.float16"),
        ([random(2, 3, 4), random(2, 3, 5)], r"got \(2, 3, 5\)"),
    ],
)
def test_bad_layers(layers, received):
    text = random(2, 4)
    with pytest.raises(ValueError, match=received):
        text_anomaly_score([layer.to(text.device) for layer in layers], text)


def test_gradcheck():
    features = random(2, 3, 4, dtype=torch.float64).requires_grad_()
    text = random(2, 4, seed=1, dtype=torch.float64).requires_grad_()
    # Computed in float32, hence the step and the tolerances.
    settings = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert torch.autograd.gradcheck(text_anomaly_score, (features, text, 1.0), **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_kept(dtype):
    features, text = random(2, 3, 4, dtype=dtype).requires_grad_(), random(2, 4, seed=1)
    result = text_anomaly_score([features, features], text)
    (gradient,) = torch.autograd.grad(result.sum(), features)
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(text_anomaly_score(features, text), result.detach())
    assert text_anomaly_score(features.detach(), text.clone().requires_grad_()).requires_grad


@only_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_threads_change_nothing(threads, dtype):
    layers, text = [random(3, 200, 70, seed=x, dtype=dtype)[:, 1:] for x in (0, 1)], random(2, 70)
    results = [text_anomaly_score(layers, text) for _ in threads((1, 2, 1, 2))]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_autocast():
    features, text = random(2, 3, 16, dtype=torch.bfloat16), random(2, 16, seed=1)
    with torch.autocast(features.device.type, torch.bfloat16), torch.no_grad():
        result = text_anomaly_score(features, text)
    assert result.isfinite().all()
    torch.testing.assert_close(result.float(), by_hand(features, text, 0.07), rtol=0, atol=0.05)


def test_torch_compile():
    layers, text = [random(2, 3, 16, seed=seed)[:, 1:] for seed in (0, 1)], random(2, 16, seed=2)
    compiled = torch.compile(text_anomaly_score, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(layers, text), text_anomaly_score(layers, text))


@only_compiled
def test_opcheck():
    operator = torch.ops.detectron2_agssp.text_anomaly_score.default
    for features in (random(2, 3, 4), random(2, 5, 4)[:, 1:], random(0, 5, 4).bfloat16()):
        torch.library.opcheck(operator, ([features, features], random(2, 4, seed=1), 0.07))


@only_compiled
def test_the_operator_itself_refuses():
    operator = torch.ops.detectron2_agssp.text_anomaly_score
    for layers, text in (
        ([], random(2, 4)),
        ([random(2, 4)], random(2, 4)),
        ([random(2, 3, 4)], random(2, 5)),
        ([random(2, 3, 4).double()], random(2, 4)),
        ([random(2, 3, 4), random(2, 2, 4)], random(2, 4)),
    ):
        with pytest.raises(ValueError, match="text_anomaly_score: "):
            operator(layers, text, 0.07)


@pytest.mark.slow
@only_compiled
def test_more_than_2_to_the_31_elements():
    """4 GiB: offsets past 32 bits, in the last patch."""
    features = torch.zeros((2, 2**20 + 1, 1024), dtype=torch.bfloat16)
    features[1, -1, 0] = 1
    result = text_anomaly_score(features, torch.eye(2, 1024))
    assert result[1, -1] < 1e-6
    assert (result == 0.5).sum() == result.numel() - 1
