"""Patch features of any backbone in Detectron2's registry, with a detector's own weights."""

import logging

import torch
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from detectron2_agssp.checkpoint import load_weights
from detectron2_agssp.scoring.patch_features import PatchFeatures

logger = logging.getLogger(__name__)


class BackbonePatchFeatures(PatchFeatures):
    """Of a Detectron2 backbone.

    Args:
        backbone: images (N, 3, H, W), normalised -> {name: (N, C, h, w)}.
        in_features: the names that are levels; empty: all.
        pixel_mean, pixel_std: of the backbone's own channel order, for images in [0, 255].
        pixel_format: "RGB" or "BGR", what the backbone expects.
        settings: see :class:`PatchFeatures`.

    Raises:
        ValueError: the backbone does not give one of ``in_features``, or takes other than RGB or
            BGR images.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: tuple[str, ...] = (),
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        pixel_format: str = "BGR",
        **settings,
    ):
        shapes = backbone.output_shape()
        unknown = sorted(set(in_features) - set(shapes))
        if unknown:
            raise ValueError(
                f"AGSSP.SCORER.IN_FEATURES has {unknown}, which the backbone does not give. "
                f"Choices: {', '.join(shapes)}."
            )
        if pixel_format not in ("RGB", "BGR") or len(pixel_mean) != 3 or len(pixel_std) != 3:
            raise ValueError(
                "Patch features need a backbone for RGB or BGR images, got INPUT.FORMAT "
                f"{pixel_format!r}, MODEL.PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std}."
            )
        names = sorted(in_features or shapes, key=lambda name: shapes[name].stride)
        strides = tuple(shapes[name].stride for name in names)
        super().__init__(
            level_channels=tuple(shapes[name].channels for name in names),
            strides=strides,
            size_divisor=max(strides[-1], backbone.size_divisibility),
            **settings,
        )
        self.names = names
        self.backbone = backbone.requires_grad_(False).eval().to(self.dtype)
        # In the state dict, and so in a map folder's fingerprint: no weights imply them.
        order = [2, 1, 0] if pixel_format == "BGR" else [0, 1, 2]
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("mean", torch.tensor(pixel_mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(pixel_std, dtype=torch.float32).view(3, 1, 1))

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        """As in the base class.

        Raises:
            ValueError: the backbone needs sides that are multiples of a number, and these are not.
        """
        divisor = self.backbone.size_divisibility
        if divisor > 1 and any(side % divisor for side in images.shape[-2:]):
            raise ValueError(
                f"The backbone {type(self.backbone).__name__} needs images whose sides are "
                f"multiples of {divisor}, got {tuple(images.shape[-2:])}: set "
                "AGSSP.SCORER.IMAGE_SIZE to such a number."
            )
        pixels = (images[:, self.order].float() - self.mean) / self.std
        features = self.backbone(pixels.to(self.dtype))
        return [features[name].float() for name in self.names]


class _BackboneOnly(nn.Module):
    """Under the name that detectors' checkpoints have it by."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone


def load_backbone(cfg) -> nn.Module:
    """The backbone of ``cfg.MODEL`` with the weights of ``cfg.MODEL.WEIGHTS``: a detector's file,
    or one of a bare backbone that Detectron2 can match ("": random, with a warning).

    Raises:
        FileNotFoundError: no such file.
        BackboneCoverageError: a ValueError; the file covers under 90 % of the backbone, or leaves
            layers random (such as an FPN's, by the weights of an ImageNet classifier).
    """
    backbone = build_backbone(cfg)
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        logger.warning(
            "MODEL.WEIGHTS is empty: the scorer's %s is random.", cfg.MODEL.BACKBONE.NAME
        )
        return backbone
    load_weights(_BackboneOnly(backbone), weights, complete=True)
    return backbone
