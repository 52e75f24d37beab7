"""Detections for people to look at: above a chosen score, without piles of boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torchvision.ops import nms

from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.images import read_image
from detectron2_agssp.utils.box_matching import coco_iou, match_boxes

# Between classes, too: two names on one defect help nobody.
MAX_OVERLAP = 0.3
MIN_IOU = 0.5
THRESHOLDS = np.arange(0.1, 0.96, 0.05).round(2)


class Detector:
    """A fine-tuned detector, and the score from which its boxes are shown.

    Args:
        cfg: that it was trained by.
        weights: its checkpoint.
        classes: names, in order.
    """

    threshold = 0.5

    def __init__(self, cfg: CfgNode, weights: Path, classes: Sequence[str]):
        self.cfg, self.classes = cfg, tuple(classes)
        self.model = load_trained(cfg, weights)

    @torch.no_grad()
    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of an image (H, W, 3) uint8 RGB: boxes (K, 4) XYXY in pixels, scores (K,) and classes
        (K,), by falling score, whatever the score."""
        instances = self.model([model_input(self.cfg, image)])[0]["instances"].to("cpu")
        kept = nms(instances.pred_boxes.tensor, instances.scores, MAX_OVERLAP)
        instances = instances[kept]
        return (
            instances.pred_boxes.tensor.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
        )

    def shown(self, image: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Boxes of at least the threshold, and a label for each."""
        boxes, scores, classes = self.predict(image)
        above = scores >= self.threshold
        labels = [
            f"{self.classes[kind]} {score:.2f}"
            for kind, score in zip(classes[above], scores[above], strict=True)
        ]
        return boxes[above], labels


def truth_of(coco: dict, image: dict) -> tuple[np.ndarray, np.ndarray]:
    """Labelled boxes (G, 4) XYXY and classes (G,), from 0, of an image."""
    labels = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
    boxes = np.array([one["bbox"] for one in labels], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    # Detectron2's contiguous class i is the i-th category id in rising order.
    ids = sorted(category["id"] for category in coco["categories"])
    return boxes, np.array([ids.index(one["category_id"]) for one in labels], np.int64)


def best_score_threshold(detector: Detector, annotations: Path, images: Path) -> float:
    """The score with the best F1 on labelled images; a box is right at IoU 0.5 with a label of its
    class."""
    coco = read_coco(annotations)
    correct = np.zeros(len(THRESHOLDS))
    shown = np.zeros(len(THRESHOLDS))
    for image in coco["images"]:
        boxes, scores, classes = detector.predict(read_image(images / image["file_name"]))
        truth, kinds = truth_of(coco, image)
        iou = coco_iou(boxes, truth, np.zeros(len(truth), bool))
        iou = np.where(classes[:, None] == kinds[None], iou, 0.0)
        for index, threshold in enumerate(THRESHOLDS):
            above = scores >= threshold
            right, _ = match_boxes(iou[above], np.zeros(len(truth), bool), MIN_IOU)
            correct[index] += right.sum()
            shown[index] += above.sum()
    f1 = 2 * correct / np.maximum(shown + len(coco["annotations"]), 1)
    return float(THRESHOLDS[f1.argmax()])
