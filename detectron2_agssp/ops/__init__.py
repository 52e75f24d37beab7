"""Operators of anomaly scoring: compiled on the CPU where they were built, else pure PyTorch.

``AGSSP_OPS=reference`` or ``native`` in the environment forces one; the CUDA kernels run only with
``native``.
"""

from detectron2_agssp.ops.anomaly_boxes import anomaly_boxes
from detectron2_agssp.ops.channel_energy import channel_energy
from detectron2_agssp.ops.min_cosine_distance import min_cosine_distance
from detectron2_agssp.ops.text_anomaly_score import text_anomaly_score

__all__ = ["anomaly_boxes", "channel_energy", "min_cosine_distance", "text_anomaly_score"]
