"""Normalisation as the operators share it."""

import torch
from torch import Tensor

# Shorter vectors count as zero.
SHORTEST = 1e-12


def unit_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(..., D) floating point -> unit vectors (..., D) float32 and their norms (..., 1).

    A vector shorter than 1e-12 stays as short as it is against 1e-12, so that zero stays zero; one
    whose norm is not finite in float32 becomes NaN, in each of its numbers.
    """
    vectors = vectors.float()
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    divisors = norms.clamp_min(SHORTEST).masked_fill(norms.isinf(), torch.nan)
    return vectors / divisors, norms
