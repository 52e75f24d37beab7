"""Detectron2's mapper for labelled images, on images read as those of the maps are."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size

from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY
from detectron2_agssp.data.mosaic import Mosaic, cut_instances, mosaic_settings
from detectron2_agssp.io.coco import check_same_categories, read_coco
from detectron2_agssp.io.images import ImageReader


@MAPPER_REGISTRY.register()
class DetectionMapper(DatasetMapper):
    """Adds ``image`` (3, H, W) uint8 and, in training, ``instances`` with boxes and masks.

    Detectron2's own reader clips 16-bit images to white, so that a detector would be fine-tuned
    and tested on other pixels than it was pretrained on.

    Args:
        is_train: whether labels are needed.
        reader: how images are read; None is ``ImageReader()``.
        mosaic, mosaic_calls: see :class:`~detectron2_agssp.data.mosaic.Mosaic`.
        settings: of Detectron2's ``DatasetMapper``; ``image_format`` is "RGB" or "BGR".
    """

    serves_testing = True

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        reader: ImageReader | None = None,
        mosaic: float = 0.0,
        mosaic_calls: float = math.inf,
        **settings,
    ):
        super().__init__(is_train, **settings)
        self.reader = reader or ImageReader()
        self.mosaic = Mosaic(cut_instances, probability=mosaic, num_calls=mosaic_calls)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        if cfg.MODEL.LOAD_PROPOSALS:
            raise ValueError(
                "DetectionMapper does not read proposals: set MODEL.LOAD_PROPOSALS to False, or "
                "AGSSP.MAPPER to ''."
            )
        if is_train:
            _compare_categories((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        return {
            **super().from_config(cfg, is_train),
            "reader": ImageReader(cfg),
            **mosaic_settings(cfg, is_train),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        inputs = copy.deepcopy(dataset_dict)
        image = self.reader(inputs["file_name"], self.image_format)
        check_image_size(inputs, image)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        inputs["image"] = torch.from_numpy(pixels)
        if not self.is_train:
            inputs.pop("annotations", None)
        elif "annotations" in inputs:
            self._transform_annotations(inputs, transforms, augmented.image.shape[:2])
            mosaic = self.mosaic(inputs["image"], inputs["instances"])
            inputs["image"], inputs["instances"] = mosaic
        return inputs


def _compare_categories(names: Sequence[str]) -> None:
    """Refuses COCO data sets of one config whose classes differ; see :func:`check_same_categories`.
    A file that is not there is not compared: the set may not be used."""
    contents = {}
    for name in names:
        metadata = MetadataCatalog.get(name)
        path = metadata.get("json_file", None)
        if path and metadata.get("evaluator_type", None) == "coco" and Path(path).is_file():
            contents[name] = read_coco(path)
    check_same_categories(contents)
