"""CLIP's V-V patches as features for the scorers without text."""

import torch
from torch import Tensor, nn

from detectron2_agssp.scoring.kead.encoder import VVAttentionEncoder
from detectron2_agssp.scoring.patch_features import PatchFeatures
from detectron2_agssp.utils.precision import check_precision


class ClipEncoder(nn.Module):
    """Pixels in [0, 255] -> :class:`VVAttentionEncoder`, in any precision.

    Args:
        clip: an open_clip CLIP; only its vision transformer is kept.
        precision: "fp32", "bf16" or "fp16".
        settings: of :class:`VVAttentionEncoder`.
    """

    def __init__(self, clip: nn.Module, *, precision: str = "fp32", **settings):
        super().__init__()
        visual = clip.visual
        self.encoder = VVAttentionEncoder(visual, **settings)
        mean, std = (getattr(visual, name, None) for name in ("image_mean", "image_std"))
        # Where a model does not say, those of OpenAI's CLIP, which nearly all have.
        mean = mean or (0.48145466, 0.4578275, 0.40821073)
        std = std or (0.26862954, 0.26130258, 0.27577711)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), False)
        self.encoder.to(check_precision(precision, "AGSSP.SCORER.PRECISION"))

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], tuple[int, int]]:
        """RGB images (N, 3, H, W), float in [0, 255] -> image embedding (N, D), patch embeddings
        [(N, 1 + h*w, D)], and (h, w)."""
        images = images.to(self.mean.device)
        embedding, patches = self.encoder((images.float() - self.mean) / self.std)
        height, width = self.encoder.patch_size
        return embedding, patches, (images.shape[2] // height, images.shape[3] // width)


class ClipPatchFeatures(PatchFeatures):
    """Patch embeddings of CLIP's feature layers, one level each.

    Args:
        clip: an open_clip CLIP.
        feature_layers: blocks, from 1.
        settings: see :class:`~detectron2_agssp.scoring.patch_features.PatchFeatures`.
    """

    def __init__(self, *, clip: nn.Module, feature_layers: tuple[int, ...], **settings):
        clip_encoder = ClipEncoder(
            clip, precision=settings.get("precision", "fp32"), feature_layers=feature_layers
        )
        encoder = clip_encoder.encoder
        count = len(feature_layers)
        super().__init__(
            level_channels=(encoder.embedding_size,) * count,
            strides=(encoder.patch_size[0],) * count,
            size_divisor=encoder.patch_size[0],
            **settings,
        )
        self.clip = clip_encoder

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        _, patches, grid = self.clip(images)
        return [level[:, 1:].transpose(1, 2).unflatten(2, grid) for level in patches]
