"""Plain Vision Transformers as backbones of yaml configs, with the simple feature pyramid of ViTDet
(Li et al., ECCV 2022). The networks are Detectron2's, which has no keys for them."""

import itertools
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from detectron2_agssp.modeling.backbone.freezing import NUM_STAGES, FrozenStages, check_freeze_at
from detectron2_agssp.modeling.backbone.pyramid import ONE_STAGE, check_channels
from detectron2_agssp.modeling.backbone.recomputing import recompute_in_backward
from detectron2_agssp.modeling.backbone.timm_models import LAST_FEATURE
from detectron2_agssp.utils.registry import get_preset


@dataclass(frozen=True)
class ViTSize:
    """Channels, blocks, attention heads, and which blocks attend to the whole image."""

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]


SIZES = {
    "tiny": ViTSize(192, 12, 3, (2, 5, 8, 11)),
    "small": ViTSize(384, 12, 6, (2, 5, 8, 11)),
    "base": ViTSize(768, 12, 12, (2, 5, 8, 11)),
    "large": ViTSize(1024, 24, 16, (5, 11, 17, 23)),
}


class ViTBackbone(FrozenStages, ViT):
    """A Vision Transformer whose first blocks can stay frozen; its one output is ``last_feat``.

    Args:
        size: channels, depth and heads.
        patch_size: pixels a side, which is the output's stride.
        window_size: cells a side of the windows of the blocks that do not attend to the whole
            image; 0: all do.
        drop_path_rate: of the last block's stochastic depth; it grows linearly from 0.
        pretrain_image_size: pixels a side that the weights' position table was made for.
        freeze_at: 0 freezes nothing, 1 the patch embedding and the position table, and each further
            number a quarter of the blocks, up to 5: all.
        use_checkpoint: computes blocks again in the backward pass, which saves memory.

    Raises:
        ValueError: ``freeze_at`` out of range.
    """

    def __init__(
        self,
        *,
        size: ViTSize,
        patch_size: int = 16,
        window_size: int = 14,
        drop_path_rate: float = 0.1,
        pretrain_image_size: int = 224,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ):
        check_freeze_at(freeze_at)
        windowed = set(range(size.depth)) - set(size.global_blocks)
        super().__init__(
            patch_size=patch_size,
            embed_dim=size.embed_dim,
            depth=size.depth,
            num_heads=size.num_heads,
            drop_path_rate=drop_path_rate,
            window_size=window_size,
            window_block_indexes=sorted(windowed) if window_size else (),
            pretrain_img_size=pretrain_image_size,
            out_feature=LAST_FEATURE,
        )
        quarters = NUM_STAGES - 1
        ends = [size.depth * quarter // quarters for quarter in range(quarters + 1)]
        stages = [[self.patch_embed]]
        stages += [list(self.blocks[start:end]) for start, end in itertools.pairwise(ends)]
        self.freeze_stages(stages, freeze_at)
        if freeze_at:
            self.pos_embed.requires_grad_(False)
        if use_checkpoint:
            recompute_in_backward(self.blocks)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to whole patches."""
        return self._out_feature_strides[LAST_FEATURE]


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTBackbone:
    """``AGSSP.VIT`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: an unknown preset.
    """
    check_channels(input_shape, "ViT")
    vit = cfg.AGSSP.VIT
    return ViTBackbone(
        size=get_preset(SIZES, vit.SIZE, key="AGSSP.VIT.SIZE"),
        patch_size=vit.PATCH_SIZE,
        window_size=vit.WINDOW_SIZE,
        drop_path_rate=vit.DROP_PATH_RATE,
        pretrain_image_size=vit.PRETRAIN_IMAGE_SIZE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        use_checkpoint=vit.USE_CHECKPOINT,
    )


@BACKBONE_REGISTRY.register()
def build_vit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """The simple feature pyramid (p2 ... p6) on :func:`build_vit_backbone`, by ``MODEL.FPN``.

    Raises:
        ValueError: patches of other than 16 pixels, whose levels would have no power of 2 as
            stride, or a one-stage detector, whose p7 this pyramid does not have.
    """
    if cfg.AGSSP.VIT.PATCH_SIZE != 16:
        raise ValueError(
            "build_vit_fpn_backbone needs AGSSP.VIT.PATCH_SIZE 16, so that its levels have the "
            f"strides 4 to 32, got {cfg.AGSSP.VIT.PATCH_SIZE}."
        )
    detector = cfg.MODEL.META_ARCHITECTURE
    if detector in ONE_STAGE:
        raise ValueError(
            f"build_vit_fpn_backbone makes the levels p2 to p6; {detector} needs p7. Choose an "
            "R-CNN, or build_timm_fpn_backbone with a hierarchical model."
        )
    return SimpleFeaturePyramid(
        net=build_vit_backbone(cfg, input_shape),
        in_feature=LAST_FEATURE,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
    )
