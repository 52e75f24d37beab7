"""The distillation meta-architecture, its loss, and backbones from timm."""

from detectron2_agssp.modeling.backbone.timm_backbone import (
    TimmBackbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
from detectron2_agssp.modeling.distiller import AnomalyDistiller
from detectron2_agssp.modeling.losses import distillation_loss, resize_target

__all__ = [
    "AnomalyDistiller",
    "TimmBackbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "distillation_loss",
    "resize_target",
]
