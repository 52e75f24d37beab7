"""Two views of unlabelled images, and how a box moves from the one to the other."""

import contextlib
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    annotations_to_instances,
    build_augmentation,
    transform_instance_annotations,
)
from detectron2.structures import Instances
from fvcore.transforms.transform import Transform

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.data.aug_input import MapAugInput
from detectron2_agssp.data.detection_mapper import DetectionMapper, check_labels
from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY
from detectron2_agssp.data.mappers import to_tensor
from detectron2_agssp.data.near_duplicates import find_near_duplicates
from detectron2_agssp.data.registered import require_registered
from detectron2_agssp.data.views import ViewColors
from detectron2_agssp.io.images import ImageReader, list_images
from detectron2_agssp.maps.store import load_map
from detectron2_agssp.modeling.teacher import UNLABELED, WITHHELD

logger = logging.getLogger(__name__)

# All that is read of an unlabelled image's record: labels are not among it.
KEPT = ("file_name", "height", "width", "map_file", "map_root", "source")
BLUR = 0.5  # probability in the strong view
HOLES = 3  # at most


class CutOut(T.Augmentation):
    """Rectangles of noise over an image (DeVries and Taylor, 2017).

    Args:
        area: at most, of all of them together, as a share of the image, in [0, 1).
        count: of rectangles, at most.
    """

    def __init__(self, area: float, count: int = HOLES):
        super().__init__()
        if not 0 <= area < 1:
            raise ValueError(f"AGSSP.TEACHER.CUT_OUT must be in [0, 1), got {area}.")
        self.area, self.count = area, count

    def get_transform(self, image: np.ndarray) -> Transform:
        # From Detectron2's generator, as all augmentations draw.
        generator = np.random.default_rng(int(self._rand_range(2**31)))
        sides = np.sqrt(
            self.area / self.count * generator.random(generator.integers(self.count + 1))
        )
        seed = generator.integers(2**31)

        def cut(pixels: np.ndarray) -> np.ndarray:
            pixels, noise = pixels.copy(), np.random.default_rng(seed)
            height, width = pixels.shape[:2]
            for side in sides:
                h, w = int(height * side), int(width * side)
                y, x = noise.integers(height - h + 1), noise.integers(width - w + 1)
                hole = pixels[y : y + h, x : x + w]
                hole[:] = noise.integers(0, 256, hole.shape)
            return pixels

        return T.ColorTransform(cut)


class ScaledBy(T.Augmentation):
    """The image at a random multiple of its size, the same for both sides.

    Args:
        limits: (min, max) of the factor, positive.
    """

    def __init__(self, limits: tuple[float, float]):
        super().__init__()
        if not 0 < limits[0] <= limits[1]:
            raise ValueError(
                f"AGSSP.TEACHER.SCALE must be (min, max), positive, got {tuple(limits)}."
            )
        self.limits = tuple(limits)

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = self._rand_range(*self.limits)
        height, width = image.shape[:2]
        new = [max(1, round(factor * side)) for side in (height, width)]
        return T.ResizeTransform(height, width, *new)


def affine_of(transform: Transform) -> np.ndarray:
    """(3, 3) float64, what resizes, flips, crops and rotations do to points (x, y)."""
    origin, right, down = transform.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    matrix = np.eye(3)
    matrix[:2] = np.stack([right - origin, down - origin, origin], axis=1)
    return matrix


class ViewPairs:
    """Unlabelled images, drawn at random, in a weak and a strong view each.

    What it draws does not touch the generators that others draw from, so that training on labels
    is the same with it and without.

    Args:
        records: dicts with ``file_name``; and ``map_file``, ``map_root``, ``source`` where there
            are anomaly maps.
        weak, strong: Detectron2 augmentations; their geometry is affine.
        count: images per call.
        image_format: "RGB" or "BGR".
        reader: how images are read; None is ``ImageReader()``.
        rules: of the maps' components, by ``map_root``; maps of other folders are not read.
        withheld: labels to judge pseudo-labels by, as :func:`withheld_labels` gives them.

    Raises:
        ValueError: no records.
    """

    def __init__(
        self,
        records: Sequence[Mapping],
        *,
        weak: list[T.Augmentation],
        strong: list[T.Augmentation],
        count: int = 1,
        image_format: str = "BGR",
        reader: ImageReader | None = None,
        rules: Mapping[str, BoxRule] | None = None,
        withheld: Mapping[str, Sequence[Mapping]] | None = None,
    ):
        if not records:
            raise ValueError("AGSSP.TEACHER.UNLABELED has no image.")
        if count < 1:
            raise ValueError(f"AGSSP.TEACHER.RATIO must be at least 1, got {count}.")
        self.records = [{key: record[key] for key in KEPT if key in record} for record in records]
        self.weak, self.strong = T.AugmentationList(weak), T.AugmentationList(strong)
        self.count, self.image_format = count, image_format
        self.reader = reader or ImageReader()
        self.rules, self.withheld = rules or {}, withheld or {}
        self._generator: np.random.Generator | None = None

    def __call__(self) -> list[dict]:
        """``count`` dicts of :class:`~detectron2_agssp.modeling.teacher.TeacherStudent`'s."""
        if self._generator is None:
            # In each process of a loader another; the same in each run with the same SEED.
            self._generator = np.random.default_rng(torch.initial_seed() % 2**63)
        pairs = []
        for _ in range(self.count):
            record = self.records[self._generator.integers(len(self.records))]
            with _generators_of_its_own(int(self._generator.integers(2**31))):
                pairs.append(self.pair(record))
        return pairs

    def pair(self, record: Mapping) -> dict:
        """Both views of one image."""
        image = self.reader(record["file_name"], self.image_format)
        anomaly_map, rule = None, self.rules.get(record.get("map_root", ""))
        if rule is not None:
            anomaly_map = resize_map(load_map(record["map_file"]), *image.shape[:2])
        weak = T.AugInput(image) if anomaly_map is None else MapAugInput(image, anomaly_map)
        strong = T.AugInput(image)
        geometry = self.weak(weak)
        to_weak, to_strong = affine_of(geometry), affine_of(self.strong(strong))
        pair = {
            "file_name": record["file_name"],
            "weak_image": to_tensor(weak.image.transpose(2, 0, 1)),
            "image": to_tensor(strong.image.transpose(2, 0, 1)),
            "weak_to_strong": torch.from_numpy((to_strong @ np.linalg.inv(to_weak))[:2]),
        }
        if rule is not None:
            height, width = weak.anomaly_map.shape
            boxes, _ = rule(weak.anomaly_map, height, width, record.get("source", ""))
            pair["anomaly_map"] = to_tensor(weak.anomaly_map[None])
            pair["anomaly_boxes"] = torch.from_numpy(boxes)
        labels = self.withheld.get(record["file_name"])
        if labels is not None:
            pair[WITHHELD] = _labels_in_view(labels, geometry, weak.image.shape[:2])
        return pair


@MAPPER_REGISTRY.register()
class TeacherMapper(DetectionMapper):
    """A :class:`DetectionMapper` whose inputs in training bring ``unlabeled`` images along.

    Args:
        pairs: where they are drawn; None: nowhere.
        arguments: those of :class:`DetectionMapper`.
    """

    @configurable
    def __init__(self, is_train: bool, *, pairs: ViewPairs | None = None, **arguments):
        super().__init__(is_train, **arguments)
        self.pairs = pairs

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        settings = super().from_config(cfg, is_train)
        return {**settings, "pairs": view_pairs(cfg) if is_train else None}

    def __call__(self, dataset_dict: dict) -> dict:
        inputs = super().__call__(dataset_dict)
        if self.pairs is not None:
            inputs[UNLABELED] = self.pairs()
        return inputs


def view_pairs(cfg: CfgNode) -> ViewPairs:
    """What ``AGSSP.TEACHER`` says, on the augmentations of ``INPUT``.

    Raises:
        ValueError: no unlabelled images, or a data set that is not registered.
    """
    settings = cfg.AGSSP.TEACHER
    if not settings.UNLABELED:
        raise ValueError(
            "AGSSP.TEACHER.UNLABELED names no unlabelled images: give it registered data sets or "
            "folders of images, or set AGSSP.MAPPER to 'DetectionMapper'."
        )
    records = [record for name in settings.UNLABELED for record in unlabeled_records(name)]
    records = _without_test_images(cfg, records)
    needs_maps = settings.GUIDANCE or settings.IGNORE_COMPONENTS
    roots = {record["map_root"] for record in records if "map_root" in record}
    rules = {root: BoxRule.from_config(cfg, root) for root in sorted(roots)} if needs_maps else {}
    geometry = build_augmentation(cfg, is_train=True)
    strong = [*geometry, ScaledBy(settings.SCALE)]
    if cfg.INPUT.CROP.ENABLED:
        strong.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    strong += [
        ViewColors(BLUR, 0.0, cfg.INPUT.FORMAT, blur_size=7),
        CutOut(settings.CUT_OUT),
    ]
    withheld = withheld_labels(cfg, records)
    logger.info(
        "Teacher rounds: %d unlabelled images, %d with anomaly maps, %d with withheld labels.",
        len(records),
        sum(record.get("map_root") in rules for record in records),
        len(withheld),
    )
    return ViewPairs(
        records,
        weak=build_augmentation(cfg, is_train=True),
        strong=strong,
        count=settings.RATIO,
        image_format=cfg.INPUT.FORMAT,
        reader=ImageReader(cfg),
        rules=rules,
        withheld=withheld,
    )


def withheld_labels(cfg: CfgNode, records: Sequence[Mapping]) -> dict[str, list[dict]]:
    """Labels that ``AGSSP.TEACHER.WITHHELD`` has of unlabelled images: ``file_name`` of the record
    -> annotations in Detectron2's format. Links to the same file are the same image.

    Raises:
        ValueError: a data set is not registered, has other classes than ``DATASETS.TRAIN``, or all
            of them have labels of none of the images.
    """
    names = cfg.AGSSP.TEACHER.WITHHELD
    if not names:
        return {}
    require_registered(names, key="AGSSP.TEACHER.WITHHELD")
    check_labels((), (*cfg.DATASETS.TRAIN, *names))
    known = {
        os.path.realpath(entry["file_name"]): entry.get("annotations", [])
        for name in names
        for entry in DatasetCatalog.get(name)
    }
    withheld = {
        record["file_name"]: known[path]
        for record in records
        if (path := os.path.realpath(record["file_name"])) in known
    }
    if not withheld:
        raise ValueError(
            f"AGSSP.TEACHER.WITHHELD: {', '.join(names)} has labels of none of the images of "
            f"AGSSP.TEACHER.UNLABELED, such as {records[0]['file_name']}."
        )
    return withheld


def _labels_in_view(
    annotations: Sequence[Mapping], geometry: Transform, size: tuple[int, int]
) -> Instances:
    boxes = [
        {key: entry[key] for key in ("bbox", "bbox_mode", "category_id")}
        for entry in annotations
        if not entry.get("iscrowd", 0)
    ]
    moved = [transform_instance_annotations(entry, geometry, size) for entry in boxes]
    return annotations_to_instances(moved, size)


def unlabeled_records(name: str) -> list[dict]:
    """Images of a registered data set, without their labels, or of a folder.

    Raises:
        ValueError: neither is there, or it has no image.
    """
    if name in DatasetCatalog:
        records = [
            {key: record[key] for key in KEPT if key in record}
            for record in DatasetCatalog.get(name)
        ]
    elif os.path.isdir(name):
        records = [{"file_name": str(Path(name, image))} for image in list_images(name)]
    else:
        require_registered([name], key="AGSSP.TEACHER.UNLABELED")
    if not records:
        raise ValueError(f"AGSSP.TEACHER.UNLABELED: {name} has no image.")
    return records


def _without_test_images(cfg: CfgNode, records: list[dict]) -> list[dict]:
    """Pseudo-labels of images that are tested on would flatter the figures."""
    similarity = cfg.AGSSP.TEACHER.NEAR_DUPLICATES
    if not similarity:
        return records
    tested = [
        record["file_name"]
        for name in cfg.DATASETS.TEST
        if name in DatasetCatalog
        for record in DatasetCatalog.get(name)
    ]
    names = [record["file_name"] for record in records]
    found = find_near_duplicates(names, tested, similarity, progress=False)
    if found:
        logger.warning(
            "%d of %d unlabelled images are nearly one of %s and are left out, such as %s.",
            len(found),
            len(records),
            ", ".join(cfg.DATASETS.TEST),
            next(iter(found)),
        )
    return [record for record in records if record["file_name"] not in found]


@contextlib.contextmanager
def _generators_of_its_own(seed: int) -> Iterator[None]:
    """NumPy's, Python's and PyTorch's generators begin at ``seed``, and go on afterwards as if
    nothing had been drawn."""
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002  (Detectron2's augmentations draw from it)
    random.seed(seed)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before[0])  # noqa: NPY002
        random.setstate(before[1])
        torch.set_rng_state(before[2])
