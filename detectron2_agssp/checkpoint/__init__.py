"""Weights in and out: backbone exports, checked loading, other libraries' names."""

from detectron2_agssp.checkpoint.coverage import BackboneCoverageError
from detectron2_agssp.checkpoint.export import export_backbone
from detectron2_agssp.checkpoint.loading import load_trained, load_weights
from detectron2_agssp.checkpoint.openmmlab import convert_openmmlab

__all__ = [
    "BackboneCoverageError",
    "convert_openmmlab",
    "export_backbone",
    "load_trained",
    "load_weights",
]
