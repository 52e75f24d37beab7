"""FCOS (Tian et al., ICCV 2019) from yaml; Detectron2 itself has it for LazyConfigs only."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.meta_arch import fcos

from detectron2_agssp.modeling.backbone.pyramid import build_pyramid, levels_of


@META_ARCH_REGISTRY.register()
class FCOS(fcos.FCOS):
    """Detectron2's FCOS with a ``from_config`` that reads ``AGSSP.FCOS``.

    Args:
        input_format: "RGB" or "BGR", the channel order of ``image``; recorded in checkpoints.
        arguments: those of Detectron2's class.
    """

    @configurable
    def __init__(self, *, input_format: str = "BGR", **arguments):
        super().__init__(**arguments)
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        settings = cfg.AGSSP.FCOS
        levels = levels_of(backbone, settings.IN_FEATURES, "AGSSP.FCOS.IN_FEATURES")
        head = fcos.FCOSHead(
            input_shape=levels,
            num_classes=settings.NUM_CLASSES,
            conv_dims=[levels[0].channels] * settings.NUM_CONVS,
            prior_prob=settings.PRIOR_PROB,
            norm=settings.NORM,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": list(settings.IN_FEATURES),
            "num_classes": settings.NUM_CLASSES,
            "center_sampling_radius": settings.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": settings.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": settings.FOCAL_LOSS_GAMMA,
            "test_score_thresh": settings.SCORE_THRESH_TEST,
            "test_topk_candidates": settings.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": settings.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A ResNet with FCOS's pyramid, whose p6 and p7 are made from p5: Detectron2's builder for
    RetinaNet makes them from res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return build_pyramid(cfg, bottom_up, "MODEL.RESNETS.OUT_FEATURES")
