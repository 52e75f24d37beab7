"""The formulas of YOLO's papers in float64, a number at a time."""

import math

import numpy as np


def iou(first, second) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def ciou_loss(box, truth) -> float:
    """Zheng et al., AAAI 2020, equations 8 to 11."""
    overlap = iou(box, truth)
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (box, truth)]
    distance = sum((a - b) ** 2 for a, b in zip(*centres, strict=True))
    enclosing = [max(box[i + 2], truth[i + 2]) - min(box[i], truth[i]) for i in (0, 1)]
    angles = [math.atan((b[2] - b[0]) / (b[3] - b[1])) for b in (box, truth)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    alpha = v / (1 - overlap + v)
    return 1 - overlap + distance / sum(side**2 for side in enclosing) + alpha * v


def distribution_focal_loss(bins, distances) -> float:
    """Li et al., NeurIPS 2020, equation 6, the mean of the sides: ``bins`` (4, B), ``distances``
    (4,)."""
    losses = []
    for logits, distance in zip(bins, distances, strict=True):
        probabilities = np.exp(logits) / np.exp(logits).sum()
        left = min(math.floor(distance), len(logits) - 2)
        to_left, to_right = distance - left, left + 1 - distance
        losses.append(
            -(
                to_right * math.log(probabilities[left])
                + to_left * math.log(probabilities[left + 1])
            )
        )
    return sum(losses) / len(losses)


def decode(bins, point, stride) -> list[float]:
    """(4, B) logits -> XYXY."""
    means = []
    for logits in bins:
        probabilities = np.exp(logits) / np.exp(logits).sum()
        means.append(stride * sum(k * p for k, p in enumerate(probabilities)))
    x, y = point
    return [x - means[0], y - means[1], x + means[2], y + means[3]]


def assign(scores, boxes, points, gt_boxes, gt_classes, topk, alpha, beta):
    """Feng et al., ICCV 2021, section 3.2: per point its box (-1: none) and its target."""
    ious = [[iou(truth, box) for box in boxes] for truth in gt_boxes]
    alignments = [
        [scores[p][c] ** alpha * ious[k][p] ** beta for p in range(len(points))]
        for k, c in enumerate(gt_classes)
    ]
    wishes = {point: [] for point in range(len(points))}
    for k, (x0, y0, x1, y1) in enumerate(gt_boxes):
        inside = [p for p, (x, y) in enumerate(points) if x0 < x < x1 and y0 < y < y1]
        for p in sorted(inside, key=lambda p: -alignments[k][p])[:topk]:
            wishes[p].append(k)
    matched = [max(ks, key=lambda k: ious[k][p]) if ks else -1 for p, ks in wishes.items()]
    targets = []
    for p, k in enumerate(matched):
        if k < 0:
            targets.append(0.0)
            continue
        own = [q for q, other in enumerate(matched) if other == k]
        best = max(alignments[k][q] for q in own)
        targets.append(alignments[k][p] / best * max(ious[k][q] for q in own))
    return matched, targets
