"""Mappers from an unlabelled image and its anomaly map to a model's input."""

import copy
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, build_augmentation
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.data.aug_input import MapAugInput
from detectron2_agssp.data.box_counts import count_boxes
from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY
from detectron2_agssp.data.mosaic import Mosaic, mosaic_settings
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.store import load_map

logger = logging.getLogger(__name__)


class _MapMapper:
    """Reads an image and its map, and moves both through the same augmentations."""

    def __init__(
        self,
        *,
        augmentations: list,
        image_format: str = "BGR",
        reader: ImageReader | None = None,
    ):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.reader = reader or ImageReader()
        logger.info("%s: augmentations %s", type(self).__name__, augmentations)

    def _load(self, dataset_dict: dict) -> MapAugInput:
        if "map_file" not in dataset_dict:
            raise ValueError(
                f"{type(self).__name__} needs a data set of anomaly maps; the entry of "
                f"{dataset_dict.get('file_name')!r} has no 'map_file'. Register map folders with "
                "detectron2_agssp.data.register_unlabeled, or set AGSSP.MAPPER to ''."
            )
        image = self.reader(dataset_dict["file_name"], self.image_format)
        height, width = image.shape[:2]
        expected = (dataset_dict["height"], dataset_dict["width"])
        if (height, width) != expected:
            raise SizeMismatchError(
                f"{dataset_dict['file_name']!r} is {height} x {width} (height x width), but its "
                f"map {dataset_dict['map_file']!r} was made of an image of {expected[0]} x "
                f"{expected[1]}. Delete the map and its manifest line, and make it again."
            )
        anomaly_map = resize_map(load_map(dataset_dict["map_file"]), height, width)
        return MapAugInput(image, anomaly_map)

    def _augment(
        self, dataset_dict: dict, augmented: MapAugInput | None = None
    ) -> tuple[dict, np.ndarray]:
        """The model's input so far, and the augmented map (H, W); of ``augmented``, or of what is
        loaded."""
        inputs = copy.deepcopy(dataset_dict)
        augmented = self._load(dataset_dict) if augmented is None else augmented
        self.augmentations(augmented)
        inputs["image"] = to_tensor(augmented.image.transpose(2, 0, 1))
        return inputs, augmented.anomaly_map


@MAPPER_REGISTRY.register()
class AnomalyMapMapper(_MapMapper):
    """For AGBP: adds ``image`` (3, H, W) uint8 and ``anomaly_map`` (1, H, W) float32 in [0, 1].

    Args:
        augmentations: Detectron2 augmentations; geometry moves the map too, colour does not.
        image_format: "RGB" or "BGR".
        reader: how images are read; None is ``ImageReader()``.
    """

    # Evaluation of maps needs the target as well.
    serves_testing = True

    @configurable
    def __init__(
        self,
        *,
        augmentations: list,
        image_format: str = "BGR",
        reader: ImageReader | None = None,
    ):
        super().__init__(augmentations=augmentations, image_format=image_format, reader=reader)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            "augmentations": build_map_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "reader": ImageReader(cfg),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        inputs, anomaly_map = self._augment(dataset_dict)
        inputs["anomaly_map"] = to_tensor(anomaly_map[None])
        return inputs


@MAPPER_REGISTRY.register()
class PseudoBoxMapper(_MapMapper):
    """For AGDP: adds ``image`` (3, H, W) and ``instances`` with the pseudo-boxes.

    Boxes are cut from the map after augmentation, so crops and scales stay consistent with what
    the rule says of an image of that size. ``instances`` has ``gt_boxes`` (K, 4) XYXY, absolute
    pixels of the augmented image, ``gt_classes`` (K,), all 0, and ``gt_scores``
    (K,); an image without boxes stays as a negative (K = 0). For Mask R-CNN there is ``gt_masks``,
    BitMasks (K, H, W) of the components that gave the boxes.

    Args:
        augmentations: as :class:`AnomalyMapMapper`'s.
        rules: one for all maps, or one per map folder (``map_root`` -> rule).
        masks: whether to add ``gt_masks``.
        mosaic, mosaic_calls: see :class:`~detectron2_agssp.data.mosaic.Mosaic`. Boxes are cut from
            each window of a map, by the rule of its source.

    Raises:
        ValueError: mosaics with masks.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: list,
        rules: BoxRule | dict[str, BoxRule],
        masks: bool = False,
        image_format: str = "BGR",
        reader: ImageReader | None = None,
        mosaic: float = 0.0,
        mosaic_calls: float = math.inf,
    ):
        super().__init__(augmentations=augmentations, image_format=image_format, reader=reader)
        if masks and mosaic:
            raise ValueError(f"Mosaics move boxes only: set mosaic to 0.0 (it is {mosaic}).")
        self.rules = rules
        self.masks = masks
        self.mosaic = Mosaic(self._cut, probability=mosaic, num_calls=mosaic_calls)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        augmentations = build_augmentation(cfg, is_train)
        if is_train and cfg.INPUT.CROP.ENABLED:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        map_roots = _map_roots(cfg.DATASETS.TRAIN)
        rules = {root: BoxRule.from_config(cfg, root) for root in map_roots}
        if is_train and comm.is_main_process():
            for name in cfg.DATASETS.TRAIN:
                map_root = MetadataCatalog.get(name).get("map_root", None)
                if map_root is not None:
                    logger.info("%s: %s", name, count_boxes(name, rules[map_root]))
        return {
            "augmentations": augmentations,
            "rules": rules,
            "masks": cfg.MODEL.MASK_ON,
            "image_format": cfg.INPUT.FORMAT,
            "reader": ImageReader(cfg),
            **mosaic_settings(cfg, is_train),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        inputs, anomaly_map = self._augment(dataset_dict)
        of_image = (anomaly_map, self._rule(dataset_dict), dataset_dict.get("source", ""))
        inputs["image"], inputs["instances"] = self.mosaic(inputs["image"], of_image)
        return inputs

    def _cut(
        self, of_image: tuple[np.ndarray, BoxRule, str], y: int, x: int, height: int, width: int
    ) -> Instances:
        anomaly_map, rule, source = of_image
        window = np.ascontiguousarray(anomaly_map[y : y + height, x : x + width])
        boxes, scores = rule(window, height, width, source)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(boxes))
        instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
        instances.gt_scores = torch.from_numpy(scores)
        if self.masks:
            instances.gt_masks = BitMasks(torch.from_numpy(rule.masks(window, boxes, source)))
        return instances

    def _rule(self, dataset_dict: dict) -> BoxRule:
        if isinstance(self.rules, BoxRule):
            return self.rules
        map_root = dataset_dict.get("map_root")
        if map_root not in self.rules:
            raise ValueError(
                f"PseudoBoxMapper has no rule for the maps in {map_root!r}, only for "
                f"{sorted(self.rules)}: put their data set into DATASETS.TRAIN, or pass it in "
                "`rules`."
            )
        return self.rules[map_root]


def box_rules(names: str | Sequence[str], **settings) -> dict[str, BoxRule]:
    """The rules of :class:`PseudoBoxMapper` for registered data sets, for LazyConfigs.

    Args:
        names: of the data sets.
        settings: ``mode``, ``margin``, ``max_boxes``, ... of
            :meth:`~detectron2_agssp.boxes.BoxRule.from_map_folder`.
    """
    names = [names] if isinstance(names, str) else names
    return {root: BoxRule.from_map_folder(root, **settings) for root in _map_roots(names)}


def _map_roots(names: Sequence[str]) -> list[str]:
    roots = [MetadataCatalog.get(name).get("map_root", None) for name in names]
    return [root for root in roots if root is not None]


def build_map_augmentation(cfg, is_train: bool) -> list[T.Augmentation]:
    """AGBP's augmentation: resize, rotate, crop, flip, colour jitter.

    Detectron2's ``INPUT.MIN_SIZE_TRAIN`` and so on, ``INPUT.CROP``, ``INPUT.RANDOM_FLIP`` and
    ``AGSSP.INPUT.ROTATION`` / ``COLOR_JITTER``. Unlike in detection, the crop comes after the
    resize, so that a batch has one size.

    Raises:
        ValueError: a rotation range or jitter out of its bounds.
    """
    resize_and_flip = build_augmentation(cfg, is_train)
    if not is_train:
        return resize_and_flip
    resize, flips = resize_and_flip[0], resize_and_flip[1:]
    low, high = cfg.AGSSP.INPUT.ROTATION
    if not -180 <= low <= high <= 180:
        raise ValueError(
            f"AGSSP.INPUT.ROTATION must be (min, max) in [-180, 180] degrees, got {(low, high)}."
        )
    jitter = cfg.AGSSP.INPUT.COLOR_JITTER
    if len(jitter) != 3 or not all(0 <= strength < 1 for strength in jitter):
        raise ValueError(
            "AGSSP.INPUT.COLOR_JITTER must be (brightness, contrast, saturation), each in [0, 1), "
            f"got {tuple(jitter)}."
        )
    augmentations = [resize]
    if (low, high) != (0, 0):
        augmentations.append(T.RandomRotation([low, high], expand=False))
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    augmentations.extend(flips)
    kinds = (T.RandomBrightness, T.RandomContrast, T.RandomSaturation)
    for kind, strength in zip(kinds, jitter, strict=True):
        if strength > 0:
            augmentations.append(kind(1 - strength, 1 + strength))
    return augmentations


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """The array's values, in its order of axes."""
    return torch.from_numpy(np.ascontiguousarray(array))
