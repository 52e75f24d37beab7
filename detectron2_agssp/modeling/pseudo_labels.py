"""From a teacher's detections to what a student learns: which are taken for true, and where they
lie in the student's view."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor, nn

from detectron2_agssp.utils.box_matching import match_boxes

# A box that a view cuts to less than this share of its area is no defect there.
MIN_VISIBLE = 0.3
# From which a pseudo-label is right.
MIN_IOU = 0.5


class ClassThresholds(nn.Module):
    """Scores from which detections of a class are taken for true.

    Labels say how many boxes of a class an image has; the threshold lets ``share`` of that number
    through in the latest unlabelled images. So a class that is found hesitantly gets a low one, and
    all rise as the teacher grows sure. (Quantiles by class frequencies, as in LabelMatch, Chen et
    al., CVPR 2022.) Processes that train together count together, so that a defect is taken for
    true in all of them or in none, and a checkpoint, which the first one writes, has all of it.

    Args:
        num_classes: C.
        share: of the boxes that labels let expect, positive.
        bounds: (lowest, highest) score that a threshold may be, in [0, 1].
        fixed: one score for all classes instead, in (0, 1]; 0 adapts.
        window: latest unlabelled images that count.
        per_image: detections of a class and an image that count, the best.

    Raises:
        ValueError: a share, bound or score out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        share: float = 0.8,
        bounds: tuple[float, float] = (0.3, 0.9),
        fixed: float = 0.0,
        window: int = 256,
        per_image: int = 10,
    ):
        super().__init__()
        if not share > 0:
            raise ValueError(f"AGSSP.TEACHER.BOX_SHARE must be positive, got {share}.")
        if not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(
                "AGSSP.TEACHER.SCORE_BOUNDS must be (lowest, highest) in [0, 1], got "
                f"{tuple(bounds)}."
            )
        if not 0 <= fixed <= 1:
            raise ValueError(f"AGSSP.TEACHER.SCORE_THRESHOLD must be in [0, 1], got {fixed}.")
        self.share, self.bounds, self.fixed = share, tuple(bounds), fixed
        self.register_buffer("labeled_images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("labels", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("unlabeled_images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scores", torch.zeros(window, num_classes, per_image))

    def count_labels(self, instances: Sequence[Instances]) -> None:
        """Takes in labelled images; call it in all processes."""
        counts = torch.zeros(len(self.labels) + 1, dtype=torch.int64)
        for own in instances:
            counts[:-1] += own.gt_classes.cpu().bincount(minlength=len(self.labels))
        counts[-1] = len(instances)
        counts = torch.stack(comm.all_gather(counts)).sum(dim=0).to(self.labels.device)
        self.labels += counts[:-1]
        self.labeled_images += counts[-1]

    def count_detections(self, detections: Sequence[Instances]) -> None:
        """Takes in the detections of unlabelled images, of which the oldest are forgotten; call it
        in all processes."""
        _, num_classes, per_image = self.scores.shape
        best = torch.zeros(len(detections), num_classes, per_image)
        for row, own in zip(best, detections, strict=True):
            for number in own.pred_classes.unique().tolist():
                scores = own.scores[own.pred_classes == number].float().cpu()
                scores = scores.sort(descending=True).values[:per_image]
                row[number, : len(scores)] = scores
        _remember(self.scores, self.unlabeled_images, best)

    def forward(self) -> Tensor:
        """(C,) float32."""
        window, num_classes, per_image = self.scores.shape
        if self.fixed:
            return self.scores.new_full((num_classes,), self.fixed)
        seen = self.unlabeled_images.clamp(max=window)
        expected = self.share * seen * self.labels / self.labeled_images.clamp(min=1)
        rank = expected.ceil().long().clamp(1, window * per_image)
        ordered = self.scores.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
        return ordered.gather(1, rank[:, None] - 1)[:, 0].clamp(*self.bounds)


class WithheldLabels(nn.Module):
    """Precision and recall of the latest pseudo-labels, by class, against labels from which nothing
    learns. Processes that train together count together.

    Args:
        num_classes: C.
        window: latest images that count.
    """

    def __init__(self, num_classes: int, *, window: int = 256):
        super().__init__()
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        # Right pseudo-labels, all of them, and labels.
        self.register_buffer("counts", torch.zeros(window, 3, num_classes, dtype=torch.int64))

    def count(self, taught: Sequence[Instances], withheld: Sequence[Instances]) -> None:
        """Takes in images, of which the oldest are forgotten; call it in all processes.

        Args:
            taught: with ``pred_boxes``, ``pred_classes`` and ``scores``.
            withheld: with ``gt_boxes`` and ``gt_classes``, of the same views.
        """
        num_classes = self.counts.shape[2]
        rows = torch.zeros(len(taught), 3, num_classes, dtype=torch.int64)
        for row, own, labels in zip(rows, taught, withheld, strict=True):
            right = own.pred_classes[are_right(own, labels)]
            for number, classes in enumerate((right, own.pred_classes, labels.gt_classes)):
                row[number] = classes.bincount(minlength=num_classes)
        _remember(self.counts, self.images, rows)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Precision and recall (C + 1,) float32, the last of all classes together; NaN where there
        is nothing to count."""
        counts = self.counts.sum(dim=0)
        right, found, labels = torch.cat([counts, counts.sum(dim=1, keepdim=True)], dim=1)
        return right / found, right / labels


def _remember(latest: Tensor, count: Tensor, rows: Tensor) -> None:
    """Writes the ``rows`` of all processes over the oldest of ``latest``, and counts them; both in
    place."""
    for row in torch.cat(comm.all_gather(rows)):
        latest[count % len(latest)] = row.to(latest)
        count += 1


def are_right(detections: Instances, labels: Instances) -> Tensor:
    """(K,) bool: the detections that lie on a label of their class, at an IoU of 0.5. A label is
    taken once, by the one of the best score."""
    iou = pairwise_iou(detections.pred_boxes, labels.gt_boxes)
    iou[detections.pred_classes[:, None] != labels.gt_classes] = 0
    order = detections.scores.argsort(descending=True)
    matched, _ = match_boxes(iou[order].numpy(), np.zeros(len(labels), bool), MIN_IOU)
    right = torch.zeros(len(iou), dtype=torch.bool)
    right[order] = torch.from_numpy(matched)
    return right


def split_detections(
    detections: Instances, thresholds: Tensor, uncertain: float
) -> tuple[Instances, Tensor]:
    """Detections that are taken for true, and the boxes (U, 4) of those that may be.

    Args:
        detections: with ``pred_boxes``, ``pred_classes`` and ``scores``.
        thresholds: (C,) by class.
        uncertain: share of its class's threshold from which a detection may be true, in [0, 1]; 1:
            there are none. What overlaps a true one, at IoU 0.5, is none either.
    """
    needed = thresholds.to(detections.scores.device)[detections.pred_classes]
    sure = detections.scores >= needed
    maybe = detections.pred_boxes.tensor[~sure & (detections.scores >= uncertain * needed)]
    accepted = detections[sure]
    if len(accepted) and len(maybe):
        overlap = pairwise_iou(Boxes(maybe), accepted.pred_boxes).amax(dim=1)
        maybe = maybe[overlap < 0.5]
    return accepted, maybe


def move_boxes(boxes: Tensor, matrix: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (K, 4) in another view, cut at its borders, and the share (K,) that is within it.

    Args:
        boxes: XYXY, pixels of the one view.
        matrix: (2, 3) affine, from the one view's pixels to the other's.
        size: (height, width) of the other.
    """
    corners = boxes.to(matrix)[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    whole = torch.cat([moved.amin(dim=1), moved.amax(dim=1)], dim=1)
    height, width = size
    cut = whole.clamp(min=0).minimum(whole.new_tensor([width, height, width, height]))
    area = Boxes(whole).area().clamp(min=1e-9)
    return cut.to(boxes), (Boxes(cut).area() / area).to(boxes)


def unexplained(components: Tensor, detections: Tensor) -> Tensor:
    """Boxes (K, 4) of anomalous components on which no detection (D, 4) lies: those of which less
    than a tenth is covered by any one, and that do not lie about its centre."""
    if not len(components) or not len(detections):
        return components
    corner = torch.maximum(components[:, None, :2], detections[None, :, :2])
    other = torch.minimum(components[:, None, 2:], detections[None, :, 2:])
    common = (other - corner).clamp(min=0).prod(dim=2)
    covered = common.amax(dim=1) >= 0.1 * Boxes(components).area()
    centres = (detections[:, :2] + detections[:, 2:]) / 2
    inside = (components[:, None, :2] <= centres) & (centres < components[:, None, 2:])
    return components[~(covered | inside.all(dim=2).any(dim=1))]


def map_agreement(boxes: Tensor, anomaly_map: Tensor) -> Tensor:
    """(K,) in [0, 1]: whether a map, too, finds boxes more anomalous than what surrounds them.

    With the mean of the map inside a box and in the ring as wide as half the box around it, it is 1
    where inside is at least as anomalous, and falls to 0 where all that is anomalous is outside.

    Args:
        boxes: (K, 4) XYXY, pixels of the map.
        anomaly_map: (H, W) in [0, 1].
    """
    height, width = anomaly_map.shape
    # Sums over rectangles from the upper left corner.
    sums = nn.functional.pad(anomaly_map.double().cumsum(0).cumsum(1), (1, 0, 1, 0))

    def total(corners: Tensor) -> tuple[Tensor, Tensor]:
        x0, y0, x1, y1 = corners.unbind(1)
        own = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return own, ((x1 - x0) * (y1 - y0)).double()

    limits = torch.tensor([width, height, width, height])
    margin = (boxes[:, 2:] - boxes[:, :2]) / 2
    around = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)
    inner, outer = (b.round().long().clamp(min=0).minimum(limits) for b in (boxes, around))
    (inside, area), (all_of_it, whole) = total(inner), total(outer)
    mean = inside / area.clamp(min=1)
    ring = (all_of_it - inside).clamp(min=0) / (whole - area).clamp(min=1)
    against = (ring - mean) / (ring + mean).clamp(min=1e-6)
    return (1 - against.clamp(0, 1)).to(boxes)


def erase(image: Tensor, regions: Tensor, kept: Tensor) -> Tensor:
    """The image with the mean of each channel in some boxes: what is there is neither a defect nor
    background.

    Args:
        image: (3, H, W), of any dtype; left as it is.
        regions: (R, 4) XYXY, pixels.
        kept: (K, 4), in which nothing is erased.
    """
    if not len(regions):
        return image
    gone = torch.zeros(image.shape[1:], dtype=torch.bool)
    for boxes, value in ((regions, True), (kept, False)):
        for x0, y0, x1, y1 in torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1).int():
            gone[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = value
    mean = image.float().mean(dim=(1, 2), keepdim=True).to(image.dtype)
    return torch.where(gone, mean, image)
