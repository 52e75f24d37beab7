"""The energy of a feature map (AGSSP, section on AGBP)."""

import torch
from torch import Tensor


def channel_energy(features: Tensor) -> Tensor:
    """Sum of squares over the channels: (N, C, H, W) -> (N, 1, H, W), in float32 at least;
    differentiable.

    Raises:
        ValueError: ``features`` is not 4-D or not floating point.
    """
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(
            "channel_energy needs floating-point features (N, C, H, W), got "
            f"{tuple(features.shape)}, {features.dtype}."
        )
    # Squares of float16 features overflow from 256 on.
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return wide.square().sum(dim=1, keepdim=True)
