"""Swin Transformers (Liu et al., ICCV 2021) as backbones of yaml configs.

Detectron2 has the network and no keys for it: its ``SwinTransformer`` is in no registry, names its
outputs p0 ... p3, has no ``size_divisibility``, and puts frozen stages back into training mode.
"""

from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SwinTransformer
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor

from detectron2_agssp.modeling.backbone.freezing import FrozenStages, check_freeze_at
from detectron2_agssp.modeling.backbone.pyramid import build_pyramid, check_channels
from detectron2_agssp.modeling.backbone.recomputing import recompute_in_backward
from detectron2_agssp.utils.registry import get_preset

FEATURES = ("res2", "res3", "res4", "res5")
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class SwinSize:
    """Channels of the first stage; blocks and attention heads of each stage."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


SIZES = {
    # For two CPU cores; there are no published weights of it.
    "nano": SwinSize(32, (2, 2, 4, 2), (1, 2, 4, 8)),
    "tiny": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class SwinBackbone(FrozenStages, SwinTransformer):
    """A Swin Transformer with outputs res2 ... res5, and stages that stay frozen.

    Args:
        size: channels, depths and heads.
        window_size: cells a side of the attention's windows; 7 for ImageNet weights, 6 for
            SimMIM's at 192 pixels.
        drop_path_rate: of the last block's stochastic depth; it grows linearly from 0.
        out_features: names in ``FEATURES``; each has a layer norm of its own.
        freeze_at: 0 freezes nothing, 1 the patch embedding, 2 also res2 with the merging of patches
            after it and its output norm, ... 5 all.
        use_checkpoint: computes blocks again in the backward pass, which saves memory.

    Raises:
        ValueError: an unknown feature, depths and heads that do not fit, a window below 2 cells, or
            ``freeze_at`` out of range.
    """

    def __init__(
        self,
        *,
        size: SwinSize,
        window_size: int = 7,
        drop_path_rate: float = 0.2,
        out_features: tuple[str, ...] = FEATURES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ):
        _check(size, window_size, drop_path_rate, out_features)
        check_freeze_at(freeze_at)
        indices = tuple(index for index, name in enumerate(FEATURES) if name in out_features)
        super().__init__(
            embed_dim=size.embed_dim,
            depths=size.depths,
            num_heads=size.num_heads,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            out_indices=indices,
        )
        self.window_size = window_size
        self._out_features = [FEATURES[index] for index in indices]
        self._out_feature_strides = {FEATURES[index]: STRIDES[index] for index in indices}
        self._out_feature_channels = {
            FEATURES[index]: self.num_features[index] for index in indices
        }
        stages = [[self.patch_embed]]
        for index, layer in enumerate(self.layers):
            norms = [getattr(self, f"norm{index}")] if index in indices else []
            stages.append([layer, *norms])
        self.freeze_stages(stages, freeze_at)
        if use_checkpoint:
            recompute_in_backward(block for layer in self.layers for block in layer.blocks)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of the largest stride."""
        return STRIDES[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised -> {feature name: (N, C, H / stride, W / stride)}."""
        outputs = super().forward(images)
        return {FEATURES[int(name[1:])]: feature for name, feature in outputs.items()}


def _check(
    size: SwinSize, window_size: int, drop_path_rate: float, out_features: tuple[str, ...]
) -> None:
    unknown = [name for name in out_features if name not in FEATURES]
    if unknown or not out_features:
        raise ValueError(
            f"AGSSP.SWIN.OUT_FEATURES has {unknown or 'nothing'}; choices: {', '.join(FEATURES)}."
        )
    if len(size.depths) != len(FEATURES) or len(size.num_heads) != len(FEATURES):
        raise ValueError(
            f"AGSSP.SWIN.DEPTHS and NUM_HEADS need a number for each of {', '.join(FEATURES)}, got "
            f"{size.depths} and {size.num_heads}."
        )
    uneven = [
        heads
        for index, heads in enumerate(size.num_heads)
        if heads < 1 or size.embed_dim * 2**index % heads
    ]
    if uneven:
        raise ValueError(
            f"AGSSP.SWIN.NUM_HEADS {size.num_heads} do not divide the stages' channels "
            f"({size.embed_dim}, doubled at each stage)."
        )
    if window_size < 2:
        raise ValueError(f"AGSSP.SWIN.WINDOW_SIZE must be at least 2 cells, got {window_size}.")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"AGSSP.SWIN.DROP_PATH_RATE must be in [0, 1), got {drop_path_rate}.")


def swin_size(cfg: CfgNode) -> SwinSize:
    """The preset ``AGSSP.SWIN.SIZE`` with EMBED_DIM, DEPTHS and NUM_HEADS where they are set.

    Raises:
        ValueError: an unknown preset.
    """
    swin = cfg.AGSSP.SWIN
    preset = get_preset(SIZES, swin.SIZE, key="AGSSP.SWIN.SIZE")
    return SwinSize(
        swin.EMBED_DIM or preset.embed_dim,
        tuple(swin.DEPTHS) or preset.depths,
        tuple(swin.NUM_HEADS) or preset.num_heads,
    )


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinBackbone:
    """``AGSSP.SWIN`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    check_channels(input_shape, "Swin")
    swin = cfg.AGSSP.SWIN
    return SwinBackbone(
        size=swin_size(cfg),
        window_size=swin.WINDOW_SIZE,
        drop_path_rate=swin.DROP_PATH_RATE,
        out_features=swin.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        use_checkpoint=swin.USE_CHECKPOINT,
    )


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid on :func:`build_swin_backbone`, by ``MODEL.FPN``."""
    return build_pyramid(cfg, build_swin_backbone(cfg, input_shape), "AGSSP.SWIN.OUT_FEATURES")
