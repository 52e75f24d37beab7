"""Anomaly maps on disk, their calibration, boxes cut from them, and how good they are."""

from detectron2_agssp.maps.boxes import boxes_from_map
from detectron2_agssp.maps.calibration import Calibration
from detectron2_agssp.maps.generate import generate_anomaly_maps
from detectron2_agssp.maps.label_free import label_free_figures
from detectron2_agssp.maps.map_agreement import agreement
from detectron2_agssp.maps.metrics import anomaly_metrics
from detectron2_agssp.maps.metrics_stream import MapMetrics
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.maps.threshold import box_threshold, map_statistics

__all__ = [
    "Calibration",
    "MapMetrics",
    "MapStore",
    "agreement",
    "anomaly_metrics",
    "box_threshold",
    "boxes_from_map",
    "generate_anomaly_maps",
    "label_free_figures",
    "load_map",
    "map_statistics",
]
