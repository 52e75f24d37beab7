"""What detectors can learn of the labels that they are given."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_convert

logger = logging.getLogger(__name__)


class UsableLabels:
    """Takes out boxes without area and refuses classes that the detector does not have.

    Args:
        num_classes: of the detector.
        key: the config key of their number, for the error.
    """

    def __init__(self, num_classes: int, key: str):
        self.num_classes = num_classes
        self.key = key
        self._has_told_of_empty_boxes = False

    def __call__(self, gt_instances: Sequence[Instances]) -> list[Instances]:
        """Without boxes that have no area; the first time, their number goes into the log.

        Raises:
            ValueError: a box of a class that the detector does not have.
        """
        usable = []
        for instances in gt_instances:
            unknown = [c for c in instances.gt_classes.tolist() if not 0 <= c < self.num_classes]
            if unknown:
                raise ValueError(
                    f"A box has the class {unknown[0]}, but {self.key} is {self.num_classes}: set "
                    "it to the number of classes of DATASETS.TRAIN."
                )
            usable.append(instances[instances.gt_boxes.nonempty()])
        dropped = sum(map(len, gt_instances)) - sum(map(len, usable))
        if dropped and not self._has_told_of_empty_boxes:
            self._has_told_of_empty_boxes = True
            logger.warning(
                "%d boxes of this batch have no area and are left out, and so will be others; "
                "correct the labels. This is said once.",
                dropped,
            )
        return usable


@dataclass(frozen=True)
class Truth:
    """The K boxes of a batch, one image after the other.

    Attributes:
        counts: boxes of each image.
        classes: (K,) int64.
        boxes: (K, 4) x, y of the centre, width and height, as shares of the image's.
        weights: (K,) of the losses, in [0, 1].
    """

    counts: list[int]
    classes: Tensor
    boxes: Tensor
    weights: Tensor

    @classmethod
    def of(cls, gt_instances: Sequence[Instances], weight_by_score: bool = False) -> "Truth":
        """With ``weight_by_score``, ``gt_scores`` are weights; boxes without one have 1."""
        shares, weights = [], []
        for instances in gt_instances:
            height, width = instances.image_size
            boxes = box_convert(instances.gt_boxes.tensor, "xyxy", "cxcywh")
            shares.append(boxes / boxes.new_tensor([width, height, width, height]))
            scored = weight_by_score and instances.has("gt_scores")
            weights.append(instances.gt_scores.to(boxes) if scored else boxes.new_ones(len(boxes)))
        classes = [instances.gt_classes for instances in gt_instances]
        counts = [len(own) for own in classes]
        return cls(counts, torch.cat(classes), torch.cat(shares), torch.cat(weights))
