"""Feature pyramids on the backbones that Detectron2 has none for."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

# Detectors whose levels p6 and p7 are convolutions; the others pool p5.
ONE_STAGE = ("RetinaNet", "FCOS")


def check_channels(input_shape: ShapeSpec, name: str) -> None:
    """ValueError where images have not the 3 channels that the backbone ``name`` takes."""
    if input_shape.channels != 3:
        raise ValueError(f"{name} takes 3 channels, got {input_shape.channels}.")


def levels_of(backbone: Backbone, names: Sequence[str], key: str) -> list[ShapeSpec]:
    """The backbone's outputs ``names``, which the config key ``key`` asks for.

    Raises:
        ValueError: the backbone lacks one; says which it has.
    """
    shapes = backbone.output_shape()
    lacking = [name for name in names if name not in shapes]
    if lacking or not names:
        raise ValueError(
            f"{key} asks for {lacking or 'nothing'}, but the backbone returns {list(shapes)}."
        )
    return [shapes[name] for name in names]


def build_pyramid(cfg: CfgNode, bottom_up: Backbone, out_features_key: str) -> FPN:
    """A feature pyramid on ``bottom_up``, by ``MODEL.FPN``.

    The levels above follow the detector: p6 and p7 by convolutions for one-stage detectors, p6 by
    pooling for the R-CNNs, as Detectron2's ResNet builders do.

    Args:
        out_features_key: the config key that says what ``bottom_up`` returns, for the error.

    Raises:
        ValueError: ``MODEL.FPN.IN_FEATURES`` asks for features that the backbone does not return.
    """
    shapes = bottom_up.output_shape()
    lacking = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in shapes]
    if lacking:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES asks for {lacking}, but the backbone returns {list(shapes)}: "
            f"add them to {out_features_key}."
        )
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block(cfg, shapes[last].channels, last),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def top_block(cfg: CfgNode, channels: int, in_feature: str) -> nn.Module:
    """What makes the levels above p5, by the detector; from ``in_feature`` of ``channels``."""
    width = cfg.MODEL.FPN.OUT_CHANNELS
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        # From p5, as Detectron2's own FCOS; RetinaNet's are from res5.
        return LastLevelP6P7(width, width, "p5")
    if cfg.MODEL.META_ARCHITECTURE in ONE_STAGE:
        return LastLevelP6P7(channels, width, in_feature)
    return LastLevelMaxPool()
