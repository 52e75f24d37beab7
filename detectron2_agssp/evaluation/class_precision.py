"""COCO's average precision per class, with intervals: how far it moves when the labelled images are
drawn again (bootstrap over images)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2_agssp.io.coco import to_xyxy
from detectron2_agssp.utils.box_matching import coco_iou, match_boxes

MIN_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MAX_BOXES = 100  # per image and class, as in COCO
COVERAGE = 0.95


@dataclass(frozen=True)
class ClassPrecision:
    """Of a class, or of all (the mean): AP over IoU 0.5 to 0.95 and at 0.5, in percent; NaN without
    labels.

    Attributes:
        name: of the class.
        labels: their number, crowds apart.
        ap, ap50: of all images.
        low, high: limits of the interval of ``ap`` that holds ``COVERAGE`` of the draws.
    """

    name: str
    labels: int
    ap: float
    ap50: float
    low: float
    high: float


def class_precisions(
    coco: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    draws: int = 200,
    seed: int = 0,
) -> list[ClassPrecision]:
    """A row per category, in the order of the labels, and last their mean, "all".

    Args:
        coco: labels, a COCO dict.
        results: COCO results: ``image_id``, ``category_id``, ``bbox`` and ``score`` each.
        draws: of as many images as there are, with replacement.
        seed: of the draws.
    """
    places = {image["id"]: place for place, image in enumerate(coco["images"])}
    number = len(places)
    generator = np.random.default_rng(seed)
    shares = np.full(number, 1 / number)
    weights = [np.ones(number), *generator.multinomial(number, shares, size=draws)]
    labels, found = defaultdict(list), defaultdict(list)
    for entries, by_class in ((coco["annotations"], labels), (results, found)):
        for entry in entries:
            by_class[entry["category_id"]].append(entry)
    precisions = []
    for category in coco["categories"]:
        cells = _matches(labels[category["id"]], found[category["id"]], places)
        precisions.append([_precision(*cells, weight) for weight in weights])
    table = np.array(precisions).reshape(-1, len(weights), len(MIN_IOUS)) * 100
    counts = [
        sum(not entry.get("iscrowd", 0) for entry in labels[category["id"]])
        for category in coco["categories"]
    ]
    names = [category["name"] for category in coco["categories"]]
    rows = [*zip(names, counts, table, strict=True)]
    rows.append(("all", sum(counts), _mean(table)))
    return [_row(*row) for row in rows]


def _row(name: str, labels: int, table: np.ndarray) -> ClassPrecision:
    """``table`` (1 + draws, T), the first row of all images."""
    drawn = table[1:].mean(axis=1)
    drawn = drawn[np.isfinite(drawn)]
    edge = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(drawn, [edge, 100 - edge]) if len(drawn) else (np.nan, np.nan)
    return ClassPrecision(
        name, labels, float(table[0].mean()), float(table[0, 0]), float(low), float(high)
    )


def _mean(table: np.ndarray) -> np.ndarray:
    """(C, R, T) -> (R, T), over the classes that have labels."""
    there = np.isfinite(table)
    number = there.sum(axis=0)
    sums = np.where(there, table, 0).sum(axis=0)
    return np.where(number > 0, sums / np.maximum(number, 1), np.nan)


def _matches(
    labels: Sequence[Mapping], found: Sequence[Mapping], places: Mapping[Any, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one class: boxes by falling score, their image (D,), whether each is right and whether it
    is ignored (T, D), and the labels of each image (N,)."""
    by_image: dict[int, tuple[list, list]] = defaultdict(lambda: ([], []))
    for entry in labels:
        by_image[places[entry["image_id"]]][0].append(entry)
    for entry in found:
        by_image[places[entry["image_id"]]][1].append(entry)
    number = np.zeros(len(places))
    scores, images = [np.zeros(0)], [np.zeros(0, int)]
    right, ignored = [np.zeros((len(MIN_IOUS), 0), bool)], [np.zeros((len(MIN_IOUS), 0), bool)]
    for place, (own, boxes) in sorted(by_image.items()):
        ordered = sorted(boxes, key=lambda entry: -entry["score"])[:_MAX_BOXES]
        is_crowd = np.array([entry.get("iscrowd", 0) for entry in own], bool)
        number[place] = (~is_crowd).sum()
        iou = coco_iou(to_xyxy(ordered), to_xyxy(own), is_crowd)
        pairs = [match_boxes(iou, is_crowd, min_iou) for min_iou in MIN_IOUS]
        right.append(np.array([pair[0] for pair in pairs]))
        ignored.append(np.array([pair[1] for pair in pairs]))
        scores.append(np.array([entry["score"] for entry in ordered]))
        images.append(np.full(len(ordered), place))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return (
        np.concatenate(images)[order],
        np.concatenate(right, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        number,
    )


def _precision(
    images: np.ndarray,
    right: np.ndarray,
    ignored: np.ndarray,
    number: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """(T,) average precision where an image counts ``weights`` (N,) times; NaN without labels."""
    count = (weights * number).sum()
    if count == 0:
        return np.full(len(right), np.nan)
    own = weights[images].astype(np.float64)
    hits = (right * own).cumsum(axis=1)
    all_boxes = (~ignored * own).cumsum(axis=1)
    precision = np.divide(hits, all_boxes, out=np.zeros_like(hits), where=all_boxes > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = np.zeros(len(right))
    for index, recall in enumerate(hits / count):
        places = np.searchsorted(recall, _RECALLS, side="left")
        inside = places < len(recall)
        values[index] = precision[index, places[inside]].sum() / len(_RECALLS)
    return values
