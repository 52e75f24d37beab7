"""KeAD, the paper's scorer: CLIP, described defects, V-V attention, a few normal images."""

from detectron2_agssp.scoring.kead.encoder import VVAttentionEncoder
from detectron2_agssp.scoring.kead.maps import (
    few_shot_maps,
    text_anomaly_image_scores,
    text_anomaly_maps,
)

__all__ = [
    "VVAttentionEncoder",
    "few_shot_maps",
    "text_anomaly_image_scores",
    "text_anomaly_maps",
]
