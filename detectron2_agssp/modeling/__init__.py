"""Meta-architectures, losses, and backbones that Detectron2 has no keys for."""

from detectron2_agssp.modeling.backbone.cspdarknet import CSPDarknet, build_cspdarknet_backbone
from detectron2_agssp.modeling.backbone.pafpn import (
    PAFPN,
    build_cspdarknet_pafpn_backbone,
    build_resnet_pafpn_backbone,
    build_swin_pafpn_backbone,
)
from detectron2_agssp.modeling.backbone.swin import (
    SwinBackbone,
    build_swin_backbone,
    build_swin_fpn_backbone,
)
from detectron2_agssp.modeling.backbone.timm_backbone import (
    TimmBackbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
from detectron2_agssp.modeling.backbone.vit import (
    ViTBackbone,
    build_vit_backbone,
    build_vit_fpn_backbone,
)
from detectron2_agssp.modeling.detectors.dino import DINO
from detectron2_agssp.modeling.detectors.fcos import FCOS, build_fcos_resnet_fpn_backbone
from detectron2_agssp.modeling.detectors.score_weights import weight_by_score
from detectron2_agssp.modeling.detectors.yolo import YOLO
from detectron2_agssp.modeling.distiller import AnomalyDistiller
from detectron2_agssp.modeling.losses import distillation_loss, resize_target
from detectron2_agssp.modeling.pretext import PRETEXT_REGISTRY
from detectron2_agssp.modeling.teacher import TeacherStudent

__all__ = [
    "DINO",
    "FCOS",
    "PAFPN",
    "PRETEXT_REGISTRY",
    "YOLO",
    "AnomalyDistiller",
    "CSPDarknet",
    "SwinBackbone",
    "TeacherStudent",
    "TimmBackbone",
    "ViTBackbone",
    "build_cspdarknet_backbone",
    "build_cspdarknet_pafpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_resnet_pafpn_backbone",
    "build_swin_backbone",
    "build_swin_fpn_backbone",
    "build_swin_pafpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_vit_backbone",
    "build_vit_fpn_backbone",
    "distillation_loss",
    "resize_target",
    "weight_by_score",
]
