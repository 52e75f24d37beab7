"""Anomaly maps, boxes and energies judged: against masks and labels, and without any."""

from detectron2_agssp.evaluation.metrics import anomaly_metrics

__all__ = ["anomaly_metrics"]
