"""Boxes against labels that pretraining did not see, at one threshold after the other: the
pseudo-boxes of a map folder, which AGDP learns from, or a COCO file of boxes with scores.

Pseudo-boxes have no class, so a box may find a label of any. Shapes: K boxes and G labels of an
image.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.evaluation.box_statistics import THRESHOLD_GRID, covered_area, stored_maps
from detectron2_agssp.evaluation.truth import CocoTruth
from detectron2_agssp.io.coco import read_coco, to_xyxy
from detectron2_agssp.maps.image_stream import source_of
from detectron2_agssp.utils.box_matching import coco_iou, match_boxes

# Threshold -> the boxes (K, 4) of an image, XYXY, of falling score.
CutBoxes = Callable[[float], np.ndarray]


@dataclass
class ClassRecall:
    """Of the labels of one class: how many there are, how many are overlapped by a pseudo-box with
    enough IoU, and how many have a pseudo-box's centre in them."""

    labels: int = 0
    found: int = 0
    hit: int = 0

    @property
    def recall(self) -> float | None:
        return _share(self.found, self.labels)

    @property
    def hit_recall(self) -> float | None:
        return _share(self.hit, self.labels)


@dataclass
class SourcePrecision:
    """Of the images of one source.

    Attributes:
        images: how many.
        without_boxes: those without a pseudo-box.
        boxes: pseudo-boxes in all of them.
        ignored: boxes that match a crowd label only, which are neither right nor wrong.
        correct: boxes that are matched one-to-one with a label.
        hitting: boxes whose centre lies in a label.
    """

    images: int = 0
    without_boxes: int = 0
    boxes: int = 0
    ignored: int = 0
    correct: int = 0
    hitting: int = 0

    @property
    def precision(self) -> float | None:
        return _share(self.correct, self.boxes - self.ignored)

    @property
    def hit_precision(self) -> float | None:
        return _share(self.hitting, self.boxes - self.ignored)


@dataclass
class BoxEvaluation:
    """The pseudo-boxes that one threshold cuts.

    Attributes:
        threshold: in the maps' units, [0, 1).
        configured: whether it is the one by which AGDP cuts its boxes.
        classes: class of the label -> its recall.
        sources: source of the image -> its precision.
    """

    threshold: float
    configured: bool
    classes: dict[str, ClassRecall] = field(default_factory=dict)
    sources: dict[str, SourcePrecision] = field(default_factory=dict)

    @property
    def all_labels(self) -> ClassRecall:
        return _sum(ClassRecall, self.classes.values())

    @property
    def all_images(self) -> SourcePrecision:
        return _sum(SourcePrecision, self.sources.values())

    def add(self, source: str, boxes: np.ndarray, labels: "ImageLabels", min_iou: float) -> None:
        """Counts one image; ``boxes`` (K, 4) are of falling score."""
        iou = coco_iou(boxes, labels.boxes, labels.is_crowd)
        correct, ignored = match_boxes(iou, labels.is_crowd, min_iou)
        centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
        hits = (labels.boxes[:, :2] <= centres) & (centres <= labels.boxes[:, 2:])
        hits = hits.all(axis=2) & ~labels.is_crowd  # (K, G)

        counts = self.sources.setdefault(source, SourcePrecision())
        counts.images += 1
        counts.without_boxes += len(boxes) == 0
        counts.boxes += len(boxes)
        counts.ignored += int(ignored.sum())
        counts.correct += int(correct.sum())
        counts.hitting += int((hits.any(axis=1) & ~ignored).sum())

        overlapped, hit = (iou >= min_iou).any(axis=0), hits.any(axis=0)
        for index in np.flatnonzero(~labels.is_crowd):
            recall = self.classes.setdefault(labels.classes[index], ClassRecall())
            recall.labels += 1
            recall.found += int(overlapped[index])
            recall.hit += int(hit[index])


@dataclass(frozen=True)
class FolderEvaluation:
    """Of one map folder.

    Attributes:
        min_iou: of a box and a label that match.
        thresholds: one evaluation each, of rising threshold.
        unknown_images: images of the map folder that the json does not have; left out.
        unseen_images: images of the json that the map folder does not have; so are their labels.
        labelled_area: share of an image's area inside labels, mean over the images: what the
            precision of hits would be if boxes were placed at random.
    """

    min_iou: float
    thresholds: list[BoxEvaluation]
    unknown_images: int
    unseen_images: int
    labelled_area: float

    @property
    def configured(self) -> BoxEvaluation:
        """That of the threshold by which AGDP cuts its boxes."""
        return next(evaluation for evaluation in self.thresholds if evaluation.configured)


def evaluate_pseudo_boxes(
    cfg,
    map_root: str | Path,
    labels: str | Path,
    *,
    thresholds: Sequence[float] = THRESHOLD_GRID,
    min_iou: float = 0.5,
    maps: Iterable[tuple[dict, np.ndarray]] | None = None,
    progress: bool = True,
) -> FolderEvaluation:
    """Precision and recall of the boxes that ``cfg.AGSSP.BOXES`` cuts, in one pass over the maps.

    - Recall: share of the labels that any box overlaps with an IoU of at least ``min_iou``.
    - Precision: share of the boxes that are matched with a label; as in COCO, one-to-one, by
      falling score, each box with the free label that it overlaps best. A label with ``iscrowd``
      is not asked for, and boxes that match nothing else are ignored. In an image that is in the
      json without labels every box is wrong.
    - Hits, for boxes of the wrong extent: as in lesion detection (Setio et al., LUNA16, 2017), a
      label is hit, and a box hits, where the box's centre lies in the label. Unlike the share of a
      label that is covered, a box of the whole image does not meet it.

    Args:
        cfg: a Detectron2 config.
        map_root: the map folder; its statistics give the threshold.
        labels: a COCO json. Images are matched by the end of their path.
        thresholds: each in [0, 1); the configured one is added to them.
        min_iou: in (0, 1].
        maps: manifest entries and maps (h, w) of the images to judge; None for the folder's own.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: the json is no COCO json or has none of the images, a label has no box, or an
            argument is out of its range.
    """
    truth = CocoTruth(labels)
    _check_arguments(thresholds, min_iou)
    rule = BoxRule.from_config(cfg, map_root)
    rules = {threshold: rule.at(threshold) for threshold in thresholds}
    rules[rule.mean_threshold] = rule
    maps = stored_maps(map_root) if maps is None else maps

    def cut() -> Iterator[tuple[dict, CutBoxes]]:
        for entry, anomaly_map in maps:
            where = entry["height"], entry["width"], entry["source"]
            yield entry, partial(_cut, rules, anomaly_map, *where)

    otherwise = (
        "If other images are labelled, name their folder (--images): the map folder's scorer "
        "scores them."
    )
    at = sorted(rules)
    return _evaluate(truth, cut(), at, rule.mean_threshold, min_iou, progress, map_root, otherwise)


def _cut(rules, anomaly_map, height: int, width: int, source: str, threshold: float) -> np.ndarray:
    return rules[threshold](anomaly_map, height, width, source)[0]


def evaluate_scored_boxes(
    path: str | Path,
    labels: str | Path,
    *,
    thresholds: Sequence[float] = THRESHOLD_GRID,
    min_iou: float = 0.5,
    progress: bool = True,
) -> FolderEvaluation:
    """The same figures of a COCO file of boxes, such as the ``boxes.json`` of a round of AGDP, what
    ``agssp boxes`` writes, or the ``predictions.json`` of ``agssp predict``. Classes of the boxes
    are not asked for. The configured threshold is 0: all boxes of the file.

    Args:
        path: COCO json; boxes without a ``score`` count at each threshold.
        labels, min_iou, progress: as of :func:`evaluate_pseudo_boxes`.
        thresholds: of the scores, each in [0, 1).

    Raises:
        FileNotFoundError, ValueError: as :func:`evaluate_pseudo_boxes`; an image has no size.
    """
    truth = CocoTruth(labels)
    _check_arguments(thresholds, min_iou)
    content = read_coco(path)
    annotations: dict = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)

    def stored() -> Iterator[tuple[dict, CutBoxes]]:
        for image in content["images"]:
            name = image["file_name"]
            if not {"height", "width"} <= image.keys():
                raise ValueError(f"{path}: the image {name} has no height and width.")
            size = {key: image[key] for key in ("height", "width")}
            found = annotations[image["id"]]
            scores = np.array([box.get("score", 1.0) for box in found])
            order = (-scores).argsort(kind="stable")
            boxes, scores = to_xyxy(found)[order], scores[order]
            entry = {"image": name, "source": source_of(name, Path(path).stem), **size}
            yield entry, partial(_above, boxes, scores)

    return _evaluate(truth, stored(), thresholds, 0.0, min_iou, progress, path)


def _above(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    return boxes[scores >= threshold]


def _check_arguments(thresholds: Sequence[float], min_iou: float) -> None:
    if not all(0 <= threshold < 1 for threshold in thresholds):
        raise ValueError(f"thresholds must be in [0, 1), got {list(thresholds)}.")
    if not 0 < min_iou <= 1:
        raise ValueError(f"The IoU of a match must be in (0, 1], got {min_iou}.")


def _evaluate(
    truth: CocoTruth,
    images: Iterable[tuple[dict, CutBoxes]],
    thresholds: Iterable[float],
    configured: float,
    min_iou: float,
    progress: bool,
    place: str | Path,
    otherwise: str = "",
) -> FolderEvaluation:
    """Of images with their boxes at any threshold, which come from ``place``; where none of them is
    labelled, ``otherwise`` says what to do."""
    evaluations = {
        threshold: BoxEvaluation(threshold, threshold == configured)
        for threshold in sorted({*thresholds, configured})
    }
    seen, unknown, labelled_area = set(), 0, 0.0
    for entry, boxes_at in tqdm(images, desc="judging boxes", unit="img", disable=not progress):
        image = truth.find(entry)
        if image is None:
            unknown += 1
            continue
        seen.add(image["id"])
        height, width = entry["height"], entry["width"]
        image_labels = ImageLabels(truth, truth.labels(image))
        visible = image_labels.boxes[~image_labels.is_crowd].clip(0, (width, height) * 2)
        labelled_area += covered_area(visible) / (height * width)
        for threshold, evaluation in evaluations.items():
            evaluation.add(entry["source"], boxes_at(threshold), image_labels, min_iou)
    if not seen:
        raise ValueError(
            f"None of the {unknown} images of {place} is in {truth.path}. {truth.hint} {otherwise}"
        )
    return FolderEvaluation(
        min_iou=min_iou,
        thresholds=list(evaluations.values()),
        unknown_images=unknown,
        unseen_images=truth.num_images - len(seen),
        labelled_area=labelled_area / len(seen),
    )


class ImageLabels:
    """The labels of one image: ``boxes`` (G, 4) float64 XYXY, absolute pixels; ``is_crowd`` (G,)
    bool; ``classes``, G names."""

    def __init__(self, truth: CocoTruth, labels: list[dict]):
        for label in labels:
            if "bbox" not in label:
                raise ValueError(
                    f"Label {label.get('id')} of {truth.path} has no bbox, only a segmentation: "
                    "boxes are judged against boxes."
                )
        boxes = np.array([label["bbox"] for label in labels], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        self.boxes = boxes
        self.is_crowd = np.array([bool(label.get("iscrowd", 0)) for label in labels], bool)
        self.classes = [truth.class_of(label) for label in labels]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _sum(kind: type, counts: Iterable):
    return kind(*map(sum, zip(*map(astuple, counts), strict=True)))
