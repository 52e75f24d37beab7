"""Anomaly maps, boxes and energies judged: against masks and labels, and without any."""

from detectron2_agssp.evaluation.judgement import judge_boxes, verdict
from detectron2_agssp.evaluation.metrics import anomaly_metrics

__all__ = ["anomaly_metrics", "judge_boxes", "verdict"]
