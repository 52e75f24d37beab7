"""Blocks that are computed again in the backward pass: less memory, more time."""

import functools
from collections.abc import Iterable

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(blocks: Iterable[nn.Module]) -> None:
    """Makes each block keep its inputs only. Detectron2's own way stops gradients where a block's
    input needs none, as behind a frozen stage."""
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
