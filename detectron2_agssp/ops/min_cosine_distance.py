"""Nearest-neighbour search by cosine."""

import torch
from torch import Tensor

from detectron2_agssp.ops import native
from detectron2_agssp.ops.unit_rows import unit_rows

# Similarities held at once are QUERY_TILE x MEMORY_TILE float32, 16 MiB, however large the memory.
QUERY_TILE = 1024
MEMORY_TILE = 4096
PRECISIONS = ("highest", "high")


@torch.no_grad()
def min_cosine_distance(
    queries: Tensor, memory: Tensor, *, precision: str = "highest", return_index: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """1 minus the largest cosine with any row of ``memory``: (..., D), (M, D) -> (...).

    Computed without gradients. The work space is at most two copies of the queries in float32 and
    one tile of the memory and of the similarities.

    Args:
        queries: (..., D), floating point.
        memory: (M, D), floating point, M and D at least 1, on the same device. Neither has to be
            normalised; a zero vector (norm under 1e-12) has cosine 0 with everything.
        precision: ``"highest"``, float32 throughout; ``"high"`` may search in bfloat16, and then
            computes the distance to the row found in float32: at most 2e-3 above the smallest one
            (measured, of features spread over their channels). With fewer than 128 channels, where
            bfloat16 is no faster, and in pure PyTorch it is the same as "highest".
        return_index: also return which row of the memory it was.

    Returns:
        (...) float32 in [0, 2]; NaN for each query whose norm is not finite in float32 (it has
        NaN, infinity, or numbers beyond about 1e19), and for no other. With ``return_index`` also
        (...) int64, the lowest index of equally near rows, 0 for a NaN.

    Raises:
        ValueError: dimensions or devices differ, no rows, or not floating point; an unknown
            precision; or a row of the memory whose norm is not finite, which would be the nearest
            of nothing, or of all. Under ``torch.compile``, which cannot stop for the last, all
            distances are NaN instead.
    """
    _check(queries, memory, precision)
    flat = queries.reshape(-1, queries.shape[-1])
    if native.use_native(NATIVE_DEVICES, queries.device):
        distance, index, finite = torch.ops.detectron2_agssp.min_cosine_distance(
            flat, memory, precision == "high"
        )
    else:
        distance, index, finite = reference(flat, memory)
    # Asked once, at the end: on a GPU each question waits for what was queued.
    if not torch.compiler.is_compiling() and not finite:
        raise ValueError(
            f"The memory {tuple(memory.shape)} of min_cosine_distance has rows that are not finite "
            "in float32 (NaN, infinity, or numbers beyond about 1e19): leave them out, and check "
            "the weights and the precision of the network that made them."
        )
    shape = queries.shape[:-1]
    return (distance.reshape(shape), index.reshape(shape)) if return_index else distance.view(shape)


def _check(queries: Tensor, memory: Tensor, precision: str) -> None:
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
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}. Choices: {', '.join(PRECISIONS)}.")


def reference(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, D), (M, D) -> distance (Q), index (Q), whether all of the memory is finite (), in
    PyTorch's own operators."""
    queries, norms = unit_rows(queries)
    best = queries.new_full((len(queries),), -torch.inf)
    index = best.new_zeros(best.shape, dtype=torch.int64)
    finite = torch.ones((), dtype=torch.bool, device=memory.device)
    for start in range(0, len(memory), MEMORY_TILE):
        # All tiles of one size, the last one overlapping: a product of another shape may round
        # otherwise, and of equally near rows the lowest would not be the first found.
        start = min(start, max(0, len(memory) - MEMORY_TILE))
        tile, lengths = unit_rows(memory[start : start + MEMORY_TILE])
        finite &= lengths.isfinite().all()
        for first in range(0, len(queries), QUERY_TILE):
            part = slice(first, first + QUERY_TILE)
            largest, place = (queries[part] @ tile.T).max(dim=1)
            better = largest > best[part]
            best[part] = torch.where(better, largest, best[part])
            index[part] = torch.where(better, start + place, index[part])
    distance = (1 - best).clamp(0, 2).masked_fill(~norms.isfinite().squeeze(-1), torch.nan)
    return distance.masked_fill(~finite, torch.nan), index, finite


def _register() -> None:
    """The fake kernel of the compiled operator."""

    @torch.library.register_fake("detectron2_agssp::min_cosine_distance")
    def _(queries, memory, high):
        distance = queries.new_empty((queries.shape[0],), dtype=torch.float32)
        return (
            distance,
            distance.new_empty(distance.shape, dtype=torch.int64),
            distance.new_empty((), dtype=torch.bool),
        )


NATIVE_DEVICES = native.register_native("min_cosine_distance", _register)
