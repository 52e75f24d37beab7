"""From anomaly maps to boxes: components above a threshold, and their export as COCO json."""

from detectron2_agssp.boxes.components import boxes_from_map
from detectron2_agssp.boxes.rule import BoxRule

__all__ = ["BoxRule", "boxes_from_map"]
