"""Self-supervised tasks beside the distillation of AGBP (AGSSP, section on AGBP)."""

from detectron2_agssp.modeling.pretext.base import PRETEXT_REGISTRY, PretextTask, build_pretext
from detectron2_agssp.modeling.pretext.moco_v3 import MoCoV3
from detectron2_agssp.modeling.pretext.simmim import SimMIM
from detectron2_agssp.modeling.pretext.source_classification import SourceClassification

__all__ = [
    "PRETEXT_REGISTRY",
    "MoCoV3",
    "PretextTask",
    "SimMIM",
    "SourceClassification",
    "build_pretext",
]
