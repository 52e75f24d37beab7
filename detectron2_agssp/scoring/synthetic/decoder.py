"""The light decoder of the scorer `synthetic`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.scoring.patch_features import resize_cells


class DefectDecoder(nn.Module):
    """Feature levels (N, C_l, h_l, w_l), finest first -> logits (N, h, w) on the finest grid.

    Levels are standardised by fixed statistics of each channel, brought to one width, added from
    the coarsest to the finest, and seen by two more convolutions. Nothing depends on the batch.

    Args:
        level_channels: C_l.
        width: channels.
    """

    def __init__(self, level_channels: tuple[int, ...], width: int):
        super().__init__()
        for level, channels in enumerate(level_channels):
            self.register_buffer(f"mean{level}", torch.zeros(channels))
            self.register_buffer(f"scale{level}", torch.ones(channels))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in level_channels)
        self.merge = nn.ModuleList(_conv3x3(width, width) for _ in level_channels)
        self.hidden = _conv3x3(width, width)
        self.logits = _conv3x3(width, 1)
        # Defects are rare: a start that says so spends no iterations on learning it.
        nn.init.constant_(self.logits.bias, -2.0)

    @torch.no_grad()
    def standardise(self, levels: list[list[Tensor]]) -> None:
        """Takes each channel's mean and deviation from batches of levels."""
        for level, tensors in enumerate(zip(*levels, strict=True)):
            cells = torch.cat([t.transpose(0, 1).flatten(1) for t in tensors], dim=1).double()
            mean, deviation = cells.mean(dim=1), cells.std(dim=1, unbiased=False)
            # A channel that is always the same says nothing, and is not stretched.
            deviation[deviation < 1e-6] = 1
            getattr(self, f"mean{level}").copy_(mean)
            getattr(self, f"scale{level}").copy_(1 / deviation)

    def forward(self, levels: list[Tensor]) -> Tensor:
        merged = None
        for level in reversed(range(len(levels))):
            mean, scale = getattr(self, f"mean{level}"), getattr(self, f"scale{level}")
            cells = (levels[level] - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1)
            cells = self.lateral[level](cells)
            if merged is not None:
                cells = cells + resize_cells(merged, cells.shape[-2:])
            merged = F.relu(self.merge[level](F.relu(cells)))
        return self.logits(F.relu(self.hidden(merged)))[:, 0]


def _conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    # Zeros beyond the border would be an edge that no image has.
    return nn.Conv2d(channels, out_channels, 3, padding=1, padding_mode="replicate")
