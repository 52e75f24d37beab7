"""Nearest-neighbour search by cosine."""

import torch
from torch import Tensor

from detectron2_agssp.ops.unit_rows import unit_rows

# Similarities held at once are QUERY_TILE x MEMORY_TILE float32, 16 MiB, however large the memory.
QUERY_TILE = 1024
MEMORY_TILE = 4096


@torch.no_grad()
def min_cosine_distance(queries: Tensor, memory: Tensor) -> Tensor:
    """1 minus the largest cosine with any row of ``memory``: (..., D), (M, D) -> (...).

    Computed in float32, without gradients. The work space is a float32 copy of the queries and one
    tile of the memory and of the similarities.

    Args:
        queries: (..., D), floating point.
        memory: (M, D), floating point, M and D at least 1, on the same device. Neither has to be
            normalised; a zero vector (norm under 1e-12) has cosine 0 with everything.

    Returns:
        (...) float32 in [0, 2]; NaN for each query whose norm is not finite in float32 (it has
        NaN, infinity, or numbers beyond about 1e19), and for no other.

    Raises:
        ValueError: dimensions or devices differ, no rows, or not floating point; or a row of the
            memory whose norm is not finite, which would be the nearest of nothing, or of all.
    """
    if (
        memory.ndim != 2
        or memory.numel() == 0
        or queries.ndim < 1
        or queries.shape[-1] != memory.shape[1]
        or not queries.is_floating_point()
        or not memory.is_floating_point()
        or queries.device != memory.device
    ):
        raise ValueError(
            "min_cosine_distance needs floating-point queries (..., D) and a memory (M, D), M and "
            f"D at least 1, on one device; got {tuple(queries.shape)} {queries.dtype} on "
            f"{queries.device} and {tuple(memory.shape)} {memory.dtype} on {memory.device}."
        )
    flat, _ = unit_rows(queries.reshape(-1, queries.shape[-1]))
    best = flat.new_full((len(flat),), -torch.inf)
    finite = torch.ones((), dtype=torch.bool, device=memory.device)
    for start in range(0, len(memory), MEMORY_TILE):
        tile, norms = unit_rows(memory[start : start + MEMORY_TILE])
        finite &= norms.isfinite().all()
        for first in range(0, len(flat), QUERY_TILE):
            part = slice(first, first + QUERY_TILE)
            best[part] = torch.maximum(best[part], (flat[part] @ tile.T).amax(dim=1))
    # Asked once, at the end: on a GPU each question waits for what was queued.
    if not finite:
        raise ValueError(
            f"The memory {tuple(memory.shape)} of min_cosine_distance has rows that are not finite "
            "in float32 (NaN, infinity, or numbers beyond about 1e19): leave them out, and check "
            "the weights and the precision of the network that made them."
        )
    return (1 - best).clamp(0, 2).reshape(queries.shape[:-1])
