"""From patch embeddings to anomaly maps (KeAD).

Shapes: N images, h x w patches, L = 1 + h * w tokens, D channels, R normal images.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detectron2_agssp.ops import min_cosine_distance, text_anomaly_score


def text_sides(text_normal: Tensor, text_anomaly: Tensor, text_empty: Tensor) -> Tensor:
    """(2, D): both text embeddings less the empty prompt's, normalised; the normal side first."""
    sides = torch.stack([text_normal.reshape(-1), text_anomaly.reshape(-1)])
    return F.normalize(sides - text_empty.reshape(-1), dim=-1)


def text_anomaly_maps(
    patch_embeddings: Sequence[Tensor],
    text_normal: Tensor,
    text_anomaly: Tensor,
    text_empty: Tensor,
    temperature: float = 0.07,
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """Zero-shot maps: how much nearer each patch is to the anomalous text (AGSSP, KeAD).

    Args:
        patch_embeddings: one (N, 1 + h*w, D) per layer, the class token first.
        text_normal, text_anomaly: (D,), unit vectors.
        text_empty: (D,), of the empty prompt; subtracted from both.
        temperature: of the softmax.
        grid: (h, w); by default square.

    Returns:
        (N, h, w) in [0, 1], the mean over the layers of softmax(cosine / temperature), the
        anomalous side.
    """
    text = text_sides(text_normal, text_anomaly, text_empty)
    layers = [patches[:, 1:] for patches in patch_embeddings]
    return _as_grid(text_anomaly_score(layers, text, temperature), grid)


def text_anomaly_image_scores(
    image_embedding: Tensor,
    text_normal: Tensor,
    text_anomaly: Tensor,
    text_empty: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """The same of image embeddings (N, D): (N,) in [0, 1]."""
    text = text_sides(text_normal, text_anomaly, text_empty)
    return text_anomaly_score(image_embedding[:, None], text, temperature)[:, 0]


def few_shot_maps(
    patch_embeddings: Sequence[Tensor],
    memory: Sequence[Tensor],
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """Half the cosine distance to the nearest normal patch of the same layer (AGSSP, KeAD).

    Args:
        patch_embeddings: one (N, 1 + h*w, D) per layer, the class token first.
        memory: the normal images' patch embeddings: one (R, 1 + h*w, D) per layer, or their
            patches alone, (M, D).
        grid: (h, w); by default square.

    Returns:
        (N, h, w) in [0, 1], the mean over the layers.

    Raises:
        ValueError: other numbers of layers.
    """
    if len(patch_embeddings) != len(memory):
        raise ValueError(
            f"The patch embeddings have {len(patch_embeddings)} layers, the memory {len(memory)}."
        )
    total = 0.0
    for patches, normal in zip(patch_embeddings, memory, strict=True):
        normal = normal[:, 1:].flatten(0, 1) if normal.ndim == 3 else normal
        total = total + 0.5 * min_cosine_distance(patches[:, 1:], normal)
    return _as_grid(total / len(memory), grid)


def _as_grid(values: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(N, h*w) -> (N, h, w)."""
    if grid is None:
        side = math.isqrt(values.shape[1])
        if side * side != values.shape[1]:
            raise ValueError(f"{values.shape[1]} patches are not a square grid: say grid=(h, w).")
        grid = (side, side)
    return values.unflatten(1, grid)
