"""What a detector gets wrong on labelled images: which class it takes for which, what it misses,
and what it calls a defect that is none."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2_agssp.io.coco import to_xyxy
from detectron2_agssp.utils.box_matching import coco_iou

MIN_IOU = 0.5


@dataclass(frozen=True)
class Mistakes:
    """At one threshold of the score.

    Attributes:
        confusion: (C + 1, C + 1) int64, rows by label, columns by detection; the last row is of
            detections on no label, the last column of labels that no detection matches.
        misses: labels that no detection matches, the worst first: those that the detector gives
            the lowest score, large ones before small ones. COCO annotations.
        false_alarms: detections on no label, by falling score. COCO results.
    """

    confusion: np.ndarray
    misses: list[Mapping[str, Any]]
    false_alarms: list[Mapping[str, Any]]


def find_mistakes(
    coco: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    threshold: float,
    min_iou: float = MIN_IOU,
) -> Mistakes:
    """Matches detections, by falling score, with the label that they overlap most, of whatever
    class; those on crowds do not count.

    Args:
        coco: labels, a COCO dict.
        results: COCO results.
        threshold: detections of a lower score do not count.
        min_iou: of a match, in (0, 1].
    """
    place = {category["id"]: index for index, category in enumerate(coco["categories"])}
    none = len(place)
    confusion = np.zeros((none + 1, none + 1), np.int64)
    labels, found = defaultdict(list), defaultdict(list)
    for entries, by_image in ((coco["annotations"], labels), (results, found)):
        for entry in entries:
            by_image[entry["image_id"]].append(entry)
    misses, false_alarms = [], []
    for image in coco["images"]:
        own = labels[image["id"]]
        boxes = sorted(found[image["id"]], key=lambda entry: -entry["score"])
        is_crowd = np.array([entry.get("iscrowd", 0) for entry in own], bool)
        iou = coco_iou(to_xyxy(boxes), to_xyxy(own), is_crowd)
        free = ~is_crowd
        for entry, overlaps in zip(boxes, iou, strict=True):
            if entry["score"] < threshold:
                break
            candidates = np.flatnonzero(free & (overlaps >= min_iou))
            if candidates.size:
                label = candidates[overlaps[candidates].argmax()]
                free[label] = False
                confusion[place[own[label]["category_id"]], place[entry["category_id"]]] += 1
            elif not (is_crowd & (overlaps >= min_iou)).any():
                confusion[none, place[entry["category_id"]]] += 1
                false_alarms.append(entry)
        for label in np.flatnonzero(free):
            confusion[place[own[label]["category_id"]], none] += 1
            seen = [
                entry["score"]
                for entry, overlaps in zip(boxes, iou, strict=True)
                if overlaps[label] >= min_iou
            ]
            misses.append((max(seen, default=0.0), own[label]))
    misses.sort(key=lambda pair: (pair[0], -pair[1]["bbox"][2] * pair[1]["bbox"][3]))
    false_alarms.sort(key=lambda entry: -entry["score"])
    return Mistakes(confusion, [label for _, label in misses], false_alarms)
