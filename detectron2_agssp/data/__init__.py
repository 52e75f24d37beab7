"""Data sets, mappers and the images they read."""

from detectron2_agssp.data.detection_mapper import DetectionMapper
from detectron2_agssp.data.labels import FORMATS, read_labels, register_label_files
from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY, build_mapper
from detectron2_agssp.data.mappers import AnomalyMapMapper, PseudoBoxMapper
from detectron2_agssp.data.unlabeled import register_map_folders, register_unlabeled
from detectron2_agssp.data.view_pairs import TeacherMapper
from detectron2_agssp.data.views import TwoViewMapper

__all__ = [
    "FORMATS",
    "MAPPER_REGISTRY",
    "AnomalyMapMapper",
    "DetectionMapper",
    "PseudoBoxMapper",
    "TeacherMapper",
    "TwoViewMapper",
    "build_mapper",
    "read_labels",
    "register_label_files",
    "register_map_folders",
    "register_unlabeled",
]
