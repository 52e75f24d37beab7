"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) by ``grid_sample``.

Shapes: N images, Q queries, S tokens of all levels (row by row, the finest level first), L levels,
H heads, P points of a head on a level, D channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sample_levels(
    values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sums of what is found at locations of all levels, bilinearly between cells, zero off them.

    Args:
        values: (N, S, H, D / H).
        shapes: (height, width) of each level, in cells.
        locations: (N, Q, H, L, P, 2) x, y as shares of a level's width and height.
        weights: (N, Q, H, L, P) of the sum (A in the paper).

    Returns:
        (N, Q, D), a head's channels side by side.
    """
    num_images, _, num_heads, channels = values.shape
    num_queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)
    sums = values.new_zeros(num_images * num_heads, channels, num_queries)
    cells = [height * width for height, width in shapes]
    for level, value in enumerate(values.permute(0, 2, 3, 1).flatten(0, 1).split(cells, dim=2)):
        sampled = F.grid_sample(
            value.unflatten(2, shapes[level]), grids[:, :, level], align_corners=False
        )
        sums = sums + (sampled * weights[:, None, :, level]).sum(dim=-1)
    return sums.view(num_images, num_heads * channels, num_queries).transpose(1, 2)


def lengths(numbers: Sequence[int | Tensor], like: Tensor) -> Tensor:
    """Numbers, which are tensors where a model is traced, as one tensor of the kind of ``like``."""
    return torch.stack([torch.as_tensor(number, device=like.device) for number in numbers]).to(like)


class DeformableAttention(nn.Module):
    """Attention of a query to a few points around its reference on every level.

    Args:
        dim: D, a multiple of ``num_heads``.
        num_heads, num_levels, num_points: H, L and P.
    """

    def __init__(self, *, dim: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__()
        self.grid = (num_heads, num_levels, num_points)
        self.sampling_offsets = nn.Linear(dim, 2 * math.prod(self.grid))
        self.attention_weights = nn.Linear(dim, math.prod(self.grid))
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self._initialize()

    def _initialize(self) -> None:
        """A head looks into a direction of its own, point p + 1 cells far; all weigh the same."""
        num_heads, num_levels, num_points = self.grid
        angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, num_points + 1)
        offsets = directions[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, num_levels, -1, -1).flatten())
        for zeros in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(zeros)
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        queries: Tensor,
        tokens: Tensor,
        valid: Tensor,
        shapes: Sequence[tuple[int, int]],
        scales: Tensor,
        references: Tensor,
    ) -> Tensor:
        """
        Args:
            queries: (N, Q, D), positions included.
            tokens: (N, S, D), and ``valid`` (N, S), whether a token is one of the image; others
                count as zero, as what lies off the levels does.
            shapes: (height, width) of each level, in cells.
            scales: (N, L, 2) width and height of the image, as shares of the level's.
            references: (N, Q, 2) points x, y, or (N, Q, 4) boxes x, y, width, height, as shares of
                the image's width and height. Offsets are cells around a point, and halves of the
                box's width and height over P around its centre.

        Returns:
            (N, Q, D)
        """
        num_heads, num_levels, num_points = self.grid
        values = self.value(tokens).masked_fill(~valid[..., None], 0)
        # In single precision also under autocast: bfloat16 could not tell cells apart.
        offsets = self.sampling_offsets(queries).float()
        offsets = offsets.unflatten(2, (num_heads, num_levels, num_points, 2))
        weights = self.attention_weights(queries).float().unflatten(2, (num_heads, -1))
        weights = weights.softmax(dim=-1).unflatten(3, (num_levels, num_points))
        scales = scales[:, None, None, :, None]
        places = references[:, :, None, None, None]
        if references.shape[-1] == 2:
            extents = torch.stack([lengths((width, height), scales) for height, width in shapes])
            locations = places * scales + offsets / extents[:, None]
        else:
            locations = (places[..., :2] + offsets / num_points * places[..., 2:] / 2) * scales
        values = values.float().unflatten(2, (num_heads, -1))
        return self.output(sample_levels(values, shapes, locations, weights))
