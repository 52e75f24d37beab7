"""Softmaxed similarity to a pair of texts (AGSSP, section on KeAD)."""

from torch import Tensor

from detectron2_agssp.ops.unit_rows import unit_rows


def text_anomaly_score(features: Tensor, text: Tensor, temperature: float = 0.07) -> Tensor:
    """softmax over {normal, anomaly} of cosine / temperature, the anomalous side.

    Args:
        features: (N, L, D), floating point, D at least 1; need not be normalised, and a zero vector
            (norm under 1e-12) scores 0.5.
        text: (2, D), floating point, on the same device, the normal side first; need not be
            normalised.
        temperature: positive.

    Returns:
        (N, L) float32 in [0, 1]; NaN for each feature whose norm is not finite in float32, and
        everywhere if a text's is not.

    Raises:
        ValueError: other shapes, types or devices, or a temperature that is not positive.
    """
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
    if not temperature > 0:
        raise ValueError(f"The temperature must be positive, got {temperature}.")
    # A softmax of two is the sigmoid of their difference.
    normal, anomaly = unit_rows(text)[0]
    cosines = unit_rows(features)[0] @ (anomaly - normal)
    return (cosines / temperature).sigmoid()
