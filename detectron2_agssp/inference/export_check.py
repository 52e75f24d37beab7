"""Whether an export finds what its detector finds: the same boxes, image by image."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.inference.export_files import Runtime
from detectron2_agssp.io.images import ImageReader, list_images

Detector = Callable[[list[dict]], list[dict]]
NUM_IMAGES = 20
MAX_PIXELS = 1.0
MAX_SCORE = 1e-3
# Of all boxes. By rounding, one at the very edge of NMS falls to either side of it, as between a
# CPU and a GPU.
MAX_LOST = 0.005


@dataclass(frozen=True)
class Agreement:
    """Of an export with its detector.

    Attributes:
        images: compared.
        boxes: that both found, to MAX_PIXELS and MAX_SCORE.
        lost: that only one of them found.
        pixels: largest difference of a side of ``boxes``, in pixels of the image.
        score: largest difference of their scores.
    """

    images: int
    boxes: int
    lost: int
    pixels: float
    score: float

    def __str__(self) -> str:
        lost = f", and {self.lost} at the edge of NMS that only one finds" if self.lost else ""
        return (
            f"in {self.images} images the detector's {self.boxes} boxes, to {self.pixels:.1g} "
            f"pixels and {self.score:.1g} of the score{lost}"
        )


def check_images(cfg: CfgNode, folder: str | Path | None = None) -> Iterator[np.ndarray]:
    """At most NUM_IMAGES images (H, W, 3) uint8 RGB: of the folder; otherwise of DATASETS.TEST, as
    far as they are there, evenly drawn from either; otherwise made up. Every second one is cut, so
    that sizes differ.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no images in it.
    """
    reader = ImageReader(cfg)
    if folder is not None:
        paths = [Path(folder, name) for name in _evenly(list(list_images(folder)))]
        if not paths:
            raise ValueError(f"{folder} holds no images.")
        images: Iterable[np.ndarray] = map(reader, paths)
    else:
        names = _validation_images(cfg)
        images = map(reader, names) if names else map(_surface, range(NUM_IMAGES))
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        cuts = [
            (height, width),
            (height, width * 3 // 4),
            (height, width),
            (height * 3 // 4, width),
        ]
        rows, columns = cuts[index % len(cuts)]
        yield np.ascontiguousarray(image[:rows, :columns])


def _validation_images(cfg: CfgNode) -> list[str]:
    """As many as are needed, from all of DATASETS.TEST; none where that is not on this machine."""
    names: list[str] = []
    for dataset in cfg.DATASETS.TEST:
        if dataset in DatasetCatalog:
            # Its labels, or its images.
            with contextlib.suppress(FileNotFoundError):
                names += [record["file_name"] for record in DatasetCatalog.get(dataset)]
    return [name for name in _evenly(names) if Path(name).is_file()]


def _evenly(names: list[str]) -> list[str]:
    """NUM_IMAGES of them, or all: the first ones may be of one class."""
    return names[:: max(len(names) // NUM_IMAGES, 1)][:NUM_IMAGES]


def _surface(seed: int) -> np.ndarray:
    """A rough surface with bright and dark spots."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(160, 320, 2)
    coarse = rng.uniform(60, 200, (8, 8)).astype(np.float32)
    grey = cv2.resize(coarse, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
    grey += rng.normal(0, 8, grey.shape)
    for _ in range(6):
        x, y = rng.integers(width), rng.integers(height)
        w, h = rng.integers(4, 80, 2)
        grey[y : y + h, x : x + w] += rng.choice([-60, 60])
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def as_detector(runtime: Runtime, input_format: str) -> Detector:
    """An export, called as Detectron2 calls its detectors; images of a call have one size.

    Args:
        runtime: of :func:`~detectron2_agssp.inference.export_files.load`.
        input_format: "RGB" or "BGR", the channel order of ``image``.
    """

    def detect(inputs: list[dict]) -> list[dict]:
        images = np.stack([sample["image"].numpy() for sample in inputs])
        outputs = runtime(images if input_format == "RGB" else images[:, ::-1].copy())
        results = []
        for sample, *rows, count in zip(inputs, *outputs, strict=True):
            boxes, scores, classes = (torch.from_numpy(row[: int(count)]) for row in rows)
            size, of_input = (sample["height"], sample["width"]), images.shape[2:]
            found = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
            found.pred_boxes.scale(size[1] / of_input[1], size[0] / of_input[0])
            results.append({"instances": found})
        return results

    return detect


@torch.no_grad()
def compare(
    detector: Detector,
    exported: Detector,
    cfg: CfgNode,
    images: Iterable[np.ndarray],
    *,
    batch: bool,
) -> Agreement:
    """Runs a detector and its export on the same images.

    Args:
        detector: Detectron2's, on the CPU, in evaluation mode.
        exported: of :func:`as_detector`.
        cfg: of the detector.
        images: (H, W, 3) uint8 RGB.
        batch: whether the export takes several images: every second one then comes with its mirror
            image.

    Raises:
        ValueError: the export finds other boxes; or there are none at all to be compared.
    """
    count, boxes, lost, pixels, score = 0, 0, 0, 0.0, 0.0
    worst = (0, "")
    for count, image in enumerate(images, start=1):
        views = [image, image[:, ::-1]] if batch and count % 2 else [image]
        inputs = [model_input(cfg, view) for view in views]
        for ours, theirs in zip(exported(inputs), detector(inputs), strict=True):
            both, alone, *differences = _differences(
                ours["instances"], theirs["instances"], cfg.TEST.DETECTIONS_PER_IMAGE
            )
            boxes, lost = boxes + both, lost + alone
            pixels, score = max(pixels, differences[0]), max(score, differences[1])
            worst = max(worst, (alone, f"{image.shape[1]} x {image.shape[0]}"))
    if not boxes + lost:
        raise ValueError(
            f"The detector finds nothing in {count} images, so its export cannot be checked. Name "
            "others, with defects (--images)."
        )
    if lost > MAX_LOST * boxes:
        raise ValueError(
            f"The export is not written: it finds other boxes than the detector, {lost} beside "
            f"{boxes} that are the same; most in an image of {worst[1]} pixels. Its backbone may "
            "keep the size of the image that it was traced with, as Swin and ViT do."
        )
    return Agreement(count, boxes, lost, pixels, score)


def _differences(ours: Instances, theirs: Instances, most: int) -> tuple[int, int, float, float]:
    """How many boxes of ``theirs`` are among ours, how many of either have no counterpart, and the
    largest differences of sides and scores. Where there are as many as there may be (``most``), the
    weakest may be others."""
    sides = (ours.pred_boxes.tensor[:, None] - theirs.pred_boxes.tensor).abs().amax(dim=2)
    scores = (ours.scores[:, None] - theirs.scores).abs()
    same = (sides <= MAX_PIXELS) & (scores <= MAX_SCORE)
    same &= ours.pred_classes[:, None] == theirs.pred_classes
    floor = 0.0
    if max(len(ours), len(theirs)) >= most:
        floor = max(min(found.scores.tolist(), default=1) for found in (ours, theirs)) + MAX_SCORE
    alone = (~same.any(dim=1) & (ours.scores > floor)).sum()
    alone += (~same.any(dim=0) & (theirs.scores > floor)).sum()
    if not same.any():
        return 0, int(alone), 0.0, 0.0
    # Of several, the nearest.
    nearest = (sides + scores + (~same) * 1e9).argmin(dim=0, keepdim=True)
    both = same.any(dim=0)
    sides, scores = (every.gather(0, nearest)[0, both] for every in (sides, scores))
    return int(both.sum()), int(alone), float(sides.max()), float(scores.max())
