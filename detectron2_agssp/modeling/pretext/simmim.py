"""SimMIM (Xie et al., CVPR 2022): reconstruct the pixels of masked blocks.

N images of H x W pixels, blocks of B pixels a side.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import Backbone, SwinTransformer, ViT
from detectron2.structures import ImageList
from torch import Tensor, nn

from detectron2_agssp.modeling.pretext.base import PRETEXT_REGISTRY, PretextTask, last_feature


@PRETEXT_REGISTRY.register()
class SimMIM(PretextTask):
    """Masks blocks of the patch embedding, and predicts their pixels from the last feature.

    A learnable token replaces masked patch embeddings, after projection and norm. A 1 x 1
    convolution and a pixel shuffle bring the last feature back to pixels; the loss is the L1
    distance to the normalised image over masked pixels, divided by their number and the channels.

    Args:
        backbone: Swin or ViT, for the sizes only.
        block: pixels a side of what is masked as one; a multiple of the patches.
        mask_ratio: share of blocks that are masked, in (0, 1); rounded up (22 of 36 at 0.6).

    Raises:
        ValueError: a backbone without patch embedding, or a block or ratio that does not fit.
    """

    def __init__(self, *, backbone: Backbone, block: int = 32, mask_ratio: float = 0.6):
        super().__init__()
        if not isinstance(backbone, SwinTransformer | ViT):
            raise ValueError(
                "SimMIM masks patch embeddings, which "
                f"{type(backbone).__name__} does not have: set MODEL.BACKBONE.NAME to "
                "build_swin_backbone or build_vit_backbone, or choose another AGSSP.PRETEXT.NAME."
            )
        self.patch = backbone.patch_embed.proj.stride[0]
        self.in_feature = last_feature(backbone)
        shape = backbone.output_shape()[self.in_feature]
        if block % shape.stride or block < 1:
            raise ValueError(
                f"AGSSP.PRETEXT.SIMMIM.BLOCK must be a multiple of {shape.stride} pixels, the "
                f"stride of {self.in_feature}, got {block}."
            )
        if not 0 < mask_ratio < 1:
            raise ValueError(
                f"AGSSP.PRETEXT.SIMMIM.MASK_RATIO must be in (0, 1), got {mask_ratio}."
            )
        self.block, self.mask_ratio = block, mask_ratio
        self.channels_last = isinstance(backbone, ViT)
        channels = backbone.patch_embed.proj.out_channels
        self.mask_token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = nn.Sequential(
            nn.Conv2d(shape.channels, 3 * shape.stride**2, 1), nn.PixelShuffle(shape.stride)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: Backbone) -> "SimMIM":
        settings = cfg.AGSSP.PRETEXT.SIMMIM
        return cls(backbone=backbone, block=settings.BLOCK, mask_ratio=settings.MASK_RATIO)

    def losses(
        self, *, backbone, images: ImageList, features, batched_inputs, preprocess
    ) -> dict[str, Tensor]:
        """``loss_simmim`` of a second pass, in which blocks are masked; padding does not count."""
        masked = self.draw_blocks(len(images), *images.tensor.shape[-2:], images.tensor.device)
        with self.masking(backbone, masked):
            feature = backbone(images.tensor)[self.in_feature]
        pixels = self.decoder(feature)[..., : images.tensor.shape[-2], : images.tensor.shape[-1]]
        counted = _enlarge(masked, self.block, images.tensor.shape[-2:])
        for number, (height, width) in enumerate(images.image_sizes):
            counted[number, :, height:] = False
            counted[number, :, :, width:] = False
        error = (pixels.float() - images.tensor).abs() * counted
        return {"loss_simmim": error.sum() / (3 * counted.sum()).clamp(min=1)}

    def draw_blocks(self, number: int, height: int, width: int, device: torch.device) -> Tensor:
        """(N, rows, columns) bool: which blocks of each image are masked, as many in each."""
        rows, columns = math.ceil(height / self.block), math.ceil(width / self.block)
        count = math.ceil(self.mask_ratio * rows * columns)
        order = torch.rand(number, rows * columns, device=device).argsort(dim=1)
        return (order < count).view(number, rows, columns)

    @contextlib.contextmanager
    def masking(self, backbone: Backbone, masked: Tensor) -> Iterator[None]:
        """Within it, ``backbone`` sees the mask token where ``masked`` (N, rows, columns) is."""

        def replace(_module, _inputs, embedded: Tensor) -> Tensor:
            if self.channels_last:
                cells = _enlarge(masked, self.block // self.patch, embedded.shape[1:3])
                return torch.where(cells[:, 0, :, :, None], self.mask_token, embedded)
            cells = _enlarge(masked, self.block // self.patch, embedded.shape[2:])
            return torch.where(cells, self.mask_token[:, None, None], embedded)

        handle = backbone.patch_embed.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def _enlarge(masked: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """(N, rows, columns) bool -> (N, 1, *size) bool, each value ``factor`` times in each way."""
    large = F.interpolate(masked[:, None].float(), scale_factor=factor, mode="nearest")
    return large[..., : size[0], : size[1]].bool()
