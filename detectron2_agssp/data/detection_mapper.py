"""Detectron2's mapper for labelled images, on images read as those of the maps are."""

import copy
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import annotations_to_instances, check_image_size

from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY
from detectron2_agssp.data.mosaic import Mosaic, cut_instances, mosaic_settings
from detectron2_agssp.io.coco import check_same_categories, read_coco
from detectron2_agssp.io.images import ImageReader

logger = logging.getLogger(__name__)


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
            check_labels(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, masks=cfg.MODEL.MASK_ON)
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
            size = augmented.image.shape[:2]
            if any(not entry.get("iscrowd", 0) for entry in inputs["annotations"]):
                self._transform_annotations(inputs, transforms, size)
            else:
                # Detectron2 asks for the masks of no defect where it crops images.
                del inputs["annotations"]
                inputs["instances"] = annotations_to_instances([], size)
            mosaic = self.mosaic(inputs["image"], inputs["instances"])
            inputs["image"], inputs["instances"] = mosaic
        return inputs


def check_labels(train: Sequence[str], test: Sequence[str], *, masks: bool = False) -> None:
    """Looks through the COCO data sets of a config before training; those whose file is not there
    may not be used. Counts boxes without area, which no detector can learn, in the log.

    Args:
        train, test: names.
        masks: whether masks are learned, and judged.

    Raises:
        ValueError: sets whose classes differ, or boxes without a mask.
    """
    contents = {}
    for name in (*train, *test):
        metadata = MetadataCatalog.get(name)
        path = metadata.get("json_file", None)
        if path and metadata.get("evaluator_type", None) == "coco" and Path(path).is_file():
            contents[name] = read_coco(path)
    check_same_categories(contents)
    for name, content in contents.items():
        annotations = content["annotations"]
        flat = sum(min(entry["bbox"][2:]) <= 0 for entry in annotations if "bbox" in entry)
        if flat and name in train:
            logger.warning("%s: %d boxes have no area and are left out.", name, flat)
        bare = sum(not entry.get("segmentation") for entry in annotations)
        if masks and bare:
            raise ValueError(
                f"{name} has {bare} boxes without a segmentation, but MODEL.MASK_ON is True: name "
                "a data set with masks, or set it to False."
            )
