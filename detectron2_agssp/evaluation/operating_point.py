"""The score from which on a detector's boxes count: that of the best F1 on labelled images, kept
beside the weights as ``threshold.json``."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from detectron2_agssp.io.coco import read_coco, to_xyxy
from detectron2_agssp.io.files import file_digest, read_json, write_json
from detectron2_agssp.utils.box_matching import coco_iou, match_boxes

MIN_IOU = 0.5
FILE = "threshold.json"
# Of the results of an evaluation, in percent and in [0, 1].
F1, THRESHOLD = "F1", "F1-threshold"


@dataclass(frozen=True)
class OperatingPoint:
    """The smallest score that counts, and the F1 of the boxes then; both in [0, 1]."""

    threshold: float
    f1: float


def best_operating_point(
    coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]], min_iou: float = MIN_IOU
) -> OperatingPoint | None:
    """That of the best F1 over all classes; None where no box is right.

    A box is right if it is matched with a label of its class (COCO's greedy matching, per image);
    those on a crowd do not count.

    Args:
        coco: labels, a COCO dict.
        results: COCO results: ``image_id``, ``category_id``, ``bbox`` and ``score`` each.
        min_iou: of a match, in (0, 1].
    """
    labels, found = defaultdict(list), defaultdict(list)
    for entries, by_cell in ((coco["annotations"], labels), (results, found)):
        for entry in entries:
            by_cell[entry["image_id"], entry["category_id"]].append(entry)
    count = sum(not entry.get("iscrowd", 0) for entry in coco["annotations"])
    scores, correct = [np.zeros(0)], [np.zeros(0, bool)]
    for cell, boxes in found.items():
        ordered = sorted(boxes, key=lambda entry: -entry["score"])
        is_crowd = np.array([entry.get("iscrowd", 0) for entry in labels[cell]], bool)
        iou = coco_iou(to_xyxy(ordered), to_xyxy(labels[cell]), is_crowd)
        matched, ignored = match_boxes(iou, is_crowd, min_iou)
        scores.append(np.array([entry["score"] for entry in ordered])[~ignored])
        correct.append(matched[~ignored])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    falling, hits = np.concatenate(scores)[order], np.concatenate(correct)[order].cumsum()
    if count == 0 or len(hits) == 0 or hits[-1] == 0:
        return None
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + count)
    # Between two scores, so that rounding elsewhere does not decide; equal ones count together.
    following = np.append(falling[1:], falling[-1])
    f1[:-1][falling[:-1] == falling[1:]] = 0
    best = int(f1.argmax())
    return OperatingPoint(float((falling[best] + following[best]) / 2), float(f1[best]))


class DetectionEvaluator(COCOEvaluator):
    """Detectron2's evaluator, with the best F1 (percent) and its threshold beside the APs of boxes.

    Args:
        dataset_name: registered, with COCO labels.
        output_dir: folder of the results.
    """

    RESULTS = "coco_instances_results.json"

    def __init__(self, dataset_name: str, output_dir: str | Path):
        super().__init__(dataset_name, output_dir=str(output_dir))
        self.dataset_name = dataset_name
        self.results_path = Path(output_dir) / self.RESULTS

    def evaluate(self, img_ids=None):
        """As Detectron2's; in the main process."""
        results = super().evaluate(img_ids)
        if results and "bbox" in results:
            labels = read_coco(MetadataCatalog.get(self.dataset_name).json_file)
            point = best_operating_point(labels, read_json(self.results_path))
            if point is not None:
                results["bbox"] |= {F1: 100 * point.f1, THRESHOLD: point.threshold}
        return results


def store_threshold(weights: Path, *, threshold: float, f1: float, data: str) -> None:
    """Writes ``threshold.json`` beside a weight file; ``f1``, in percent, is of the data set
    ``data``."""
    content = {"data": data, "f1": f1, "threshold": threshold, "weights": file_digest(weights)}
    write_json(weights.with_name(FILE), content)


def stored_threshold(weights: Path) -> float | None:
    """What :func:`store_threshold` wrote of this weight file; None of others.

    Raises:
        ValueError: the file is damaged.
    """
    path = weights.with_name(FILE)
    if not path.is_file():
        return None
    content = read_json(path)
    threshold = content.get("threshold") if isinstance(content, dict) else None
    if not isinstance(threshold, float) or not 0 <= threshold <= 1:
        raise ValueError(f"{path} is damaged: it has no threshold in [0, 1]. Delete it.")
    return threshold if content.get("weights") == file_digest(weights) else None
