"""Data sets, mappers and the images they read."""

from detectron2_agssp.data.image_io import list_images, read_image
from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY, build_mapper
from detectron2_agssp.data.mappers import AnomalyMapMapper, PseudoBoxMapper
from detectron2_agssp.data.unlabeled import register_map_folders, register_unlabeled

__all__ = [
    "MAPPER_REGISTRY",
    "AnomalyMapMapper",
    "PseudoBoxMapper",
    "build_mapper",
    "list_images",
    "read_image",
    "register_map_folders",
    "register_unlabeled",
]
