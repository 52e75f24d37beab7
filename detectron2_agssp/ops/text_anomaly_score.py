"""Softmaxed similarity to a pair of texts (AGSSP, section on KeAD)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2_agssp.ops import native
from detectron2_agssp.ops.unit_rows import unit_rows


def text_anomaly_score(
    features: Tensor | Sequence[Tensor], text: Tensor, temperature: float = 0.07
) -> Tensor:
    """softmax over {normal, anomaly} of cosine / temperature, the anomalous side.

    Differentiable; float16, bfloat16 and float32 run compiled where no gradient is wanted.

    Args:
        features: (N, L, D), floating point, D at least 1; need not be normalised, and a zero vector
            (norm under 1e-12) scores 0.5. Or a list of such layers, of one shape, type and device,
            whose scores are averaged.
        text: (2, D), floating point, on the same device, the normal side first; need not be
            normalised.
        temperature: positive.

    Returns:
        (N, L) float32 in [0, 1]; NaN for each feature whose norm is not finite in float32, and
        everywhere if a text's is not.

    Raises:
        ValueError: other shapes, types or devices, no layer, or a temperature that is not positive.
    """
    layers = [features] if isinstance(features, Tensor) else list(features)
    if not layers:
        raise ValueError("text_anomaly_score needs at least one layer of features, got none.")
    for layer in layers:
        _check(layer, layers[0], text)
    if not temperature > 0:
        raise ValueError(f"The temperature must be positive, got {temperature}.")
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (*layers, text))
    compiled = native.use_native(NATIVE_DEVICES, text.device)
    if compiled and not wants_gradient and layers[0].dtype != torch.float64:
        return torch.ops.detectron2_agssp.text_anomaly_score(layers, text, temperature)
    return reference(layers, text, temperature)


def _check(features: Tensor, first: Tensor, text: Tensor) -> None:
    if (
        features.ndim != 3
        or features.shape[-1] == 0
        or tuple(text.shape) != (2, features.shape[-1])
        or not features.is_floating_point()
        or not text.is_floating_point()
        or features.device != text.device
    ):
        raise ValueError(
            "text_anomaly_score needs floating-point features (N, L, D) and a text (2, D), D at "
            f"least 1, on one device; got {tuple(features.shape)} {features.dtype} on "
            f"{features.device} and {tuple(text.shape)} {text.dtype} on {text.device}."
        )
    if features.shape != first.shape or features.dtype != first.dtype:
        raise ValueError(
            "text_anomaly_score needs layers of one shape and type, got "
            f"{tuple(first.shape)} {first.dtype} and {tuple(features.shape)} {features.dtype}."
        )


def reference(layers: Sequence[Tensor], text: Tensor, temperature: float) -> Tensor:
    """The same in PyTorch's own operators."""
    # A softmax of two is the sigmoid of their difference.
    normal, anomaly = unit_rows(text)[0]
    direction = anomaly - normal
    scores = [((unit_rows(layer)[0] @ direction) / temperature).sigmoid() for layer in layers]
    return sum(scores[1:], start=scores[0]) / len(scores)


def _register() -> None:
    """The fake kernel of the compiled operator."""

    @torch.library.register_fake("detectron2_agssp::text_anomaly_score")
    def _(features, text, temperature):
        num_images, num_patches, _ = features[0].shape
        return features[0].new_empty((num_images, num_patches), dtype=torch.float32)


NATIVE_DEVICES = native.register_native("text_anomaly_score", _register)
