"""A path-aggregation pyramid (Liu et al., CVPR 2018) of split-and-concatenate blocks.

Top-down, then bottom-up again, so that coarse levels see fine edges. Levels p3, p4 and p5 at
strides 8, 16 and 32.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import Tensor, nn

from detectron2_agssp.modeling.backbone.cspdarknet import (
    SIZES,
    ConvNormAct,
    SplitConcatBlock,
    build_cspdarknet_backbone,
    initialize,
)
from detectron2_agssp.modeling.backbone.swin import build_swin_backbone

IN_FEATURES = ("res3", "res4", "res5")
LEVELS = ("p3", "p4", "p5")


class PAFPN(Backbone):
    """Three levels from three features of any backbone, each as wide as asked.

    Args:
        bottom_up: with outputs res3, res4 and res5.
        out_channels: of p3, p4 and p5.
        depth: refining steps of each block.
        norm: "BN", "SyncBN" or "FrozenBN".

    Raises:
        ValueError: ``bottom_up`` lacks a feature.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        out_channels: tuple[int, int, int],
        depth: int = 1,
        norm: str = "BN",
    ):
        super().__init__()
        shapes = bottom_up.output_shape()
        lacking = [name for name in IN_FEATURES if name not in shapes]
        if lacking:
            raise ValueError(
                f"A PAFPN needs the features {', '.join(IN_FEATURES)}; the backbone returns "
                f"{', '.join(shapes)}: add {', '.join(lacking)} to its OUT_FEATURES."
            )
        self.bottom_up = bottom_up
        channels = [shapes[name].channels for name in IN_FEATURES]
        fine, middle, coarse = out_channels

        def block(in_channels: int, width: int) -> SplitConcatBlock:
            return SplitConcatBlock(in_channels, width, depth, shortcut=False, norm=norm)

        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.top_down4 = block(channels[2] + channels[1], middle)
        self.top_down3 = block(middle + channels[0], fine)
        self.down3 = ConvNormAct(fine, fine, 3, stride=2, norm=norm)
        self.bottom_up4 = block(fine + middle, middle)
        self.down4 = ConvNormAct(middle, middle, 3, stride=2, norm=norm)
        self.bottom_up5 = block(middle + channels[2], coarse)
        for module in (
            *(self.top_down4, self.top_down3, self.down3),
            *(self.bottom_up4, self.down4, self.bottom_up5),
        ):
            initialize(module)
        self._out_features = list(LEVELS)
        self._out_feature_channels = dict(zip(LEVELS, out_channels, strict=True))
        self._out_feature_strides = {
            level: shapes[name].stride for level, name in zip(LEVELS, IN_FEATURES, strict=True)
        }

    @property
    def size_divisibility(self) -> int:
        """Of p5's stride, so that an upsampled level fits the one below it."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised, H and W multiples of ``size_divisibility`` -> p3, p4, p5."""
        features = self.bottom_up(images)
        res3, res4, res5 = (features[name] for name in IN_FEATURES)
        middle = self.top_down4(torch.cat([self.up(res5), res4], dim=1))
        p3 = self.top_down3(torch.cat([self.up(middle), res3], dim=1))
        p4 = self.bottom_up4(torch.cat([self.down3(p3), middle], dim=1))
        p5 = self.bottom_up5(torch.cat([self.down4(p4), res5], dim=1))
        return dict(zip(LEVELS, (p3, p4, p5), strict=True))


@BACKBONE_REGISTRY.register()
def build_cspdarknet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """:func:`~detectron2_agssp.modeling.backbone.cspdarknet.build_cspdarknet_backbone` with its
    pyramid, as wide as the backbone's own features."""
    bottom_up = build_cspdarknet_backbone(cfg, input_shape)
    size = SIZES[cfg.AGSSP.CSPDARKNET.SIZE]
    return PAFPN(
        bottom_up=bottom_up,
        out_channels=size.channels[1:],
        depth=size.depths[0],
        norm=cfg.AGSSP.CSPDARKNET.NORM,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """Detectron2's ResNet with a pyramid by ``AGSSP.PAFPN``."""
    return _build_pafpn(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_swin_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """:func:`~detectron2_agssp.modeling.backbone.swin.build_swin_backbone` with a pyramid by
    ``AGSSP.PAFPN``."""
    return _build_pafpn(cfg, build_swin_backbone(cfg, input_shape))


def _build_pafpn(cfg: CfgNode, bottom_up: Backbone) -> PAFPN:
    settings = cfg.AGSSP.PAFPN
    if len(settings.OUT_CHANNELS) != len(LEVELS):
        raise ValueError(
            f"AGSSP.PAFPN.OUT_CHANNELS needs a number for each of {', '.join(LEVELS)}, got "
            f"{tuple(settings.OUT_CHANNELS)}."
        )
    return PAFPN(
        bottom_up=bottom_up,
        out_channels=settings.OUT_CHANNELS,
        depth=settings.DEPTH,
        norm=settings.NORM,
    )
