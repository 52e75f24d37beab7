"""Pixel-level figures of anomaly maps against defect masks.

All four are read off one curve: as the threshold falls, it accumulates true positives, false
positives, and, for the per-region overlap (PRO), the share of each region that is found. Here the
curve has a point at every score of the pixels, so the figures are exact and memory grows with the
images; :class:`~detectron2_agssp.evaluation.metrics_stream.MapMetrics` has a fixed number of
points.
"""

from collections.abc import Sequence

import numpy as np

EIGHT_CONNECTED = np.ones((3, 3), int)


def anomaly_metrics(
    maps: np.ndarray | Sequence[np.ndarray],
    masks: np.ndarray | Sequence[np.ndarray],
    max_fpr: float = 0.3,
) -> dict[str, float]:
    """AUROC, average precision, best F1 and AUPRO over all pixels of all images.

    Args:
        maps: (N, H, W), or a sequence of (H, W) that may differ in size; higher is more anomalous.
        masks: of the same shapes; non-zero or True is defect.
        max_fpr: AUPRO is integrated up to this false-positive rate and divided by it.

    Returns:
        ``{"auroc", "ap", "f1_max", "aupro"}``, each in [0, 1]. AUPRO (Bergmann et al., IJCV 2021)
        is the area under the mean share of each 8-connected region that is found, over the
        false-positive rate.

    Raises:
        ValueError: shapes differ, a map is not finite, or there is no defect or no normal pixel,
            or ``max_fpr`` is not in (0, 1].
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be in (0, 1], got {max_fpr}.")
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks.")
    scores, is_defect, region_weight = [], [], []
    num_regions = 0
    for index, pair in enumerate(zip(maps, masks, strict=True)):
        anomaly_map, mask = checked_pair(*pair, index)
        labels, sizes = label_regions(mask)
        num_regions += sizes.size - 1
        # The background, label 0, has no weight.
        weights = np.append(0.0, 1 / sizes[1:])
        scores.append(anomaly_map.ravel())
        is_defect.append(mask.ravel())
        region_weight.append(weights[labels.ravel()])
    if not scores:
        raise ValueError("There are no maps to judge.")
    scores = np.concatenate(scores)
    is_defect = np.concatenate(is_defect)
    order = np.argsort(scores)[::-1]  # not of -scores, which unsigned numbers do not have
    ranked = scores[order]
    # Thresholds lie between different scores only: equal ones are found together.
    different = np.flatnonzero(ranked[1:] != ranked[:-1])
    last_of_equal = np.append(different, np.arange(ranked.size)[-1:])
    found = np.cumsum(is_defect[order])[last_of_equal]
    overlap = np.cumsum(np.concatenate(region_weight)[order])[last_of_equal]
    return figures_of_curve(found, last_of_equal + 1, overlap / max(num_regions, 1), max_fpr)


def figures_of_curve(
    found: np.ndarray, selected: np.ndarray, overlap: np.ndarray, max_fpr: float = 0.3
) -> dict[str, float]:
    """The figures of :func:`anomaly_metrics` from what falling thresholds select.

    Args:
        found: (K,) int, defect pixels at or above each threshold; rising.
        selected: (K,) int, all pixels at or above it; strictly rising, the last is every pixel.
        overlap: (K,) in [0, 1], mean over the regions of their share that is found.
        max_fpr: in (0, 1].

    Raises:
        ValueError: there is no defect or no normal pixel.
    """
    num_defect = int(found[-1]) if found.size else 0
    num_normal = int(selected[-1]) - num_defect if found.size else 0
    if num_defect == 0 or num_normal == 0:
        raise ValueError(
            f"The masks have {num_defect} defect and {num_normal} normal pixels; the metrics need "
            "both."
        )
    recall = found / num_defect
    false_positive_rate = (selected - found) / num_normal
    precision = found / selected
    with_origin = {
        name: np.concatenate([[0.0], values])
        for name, values in (("fpr", false_positive_rate), ("tpr", recall), ("pro", overlap))
    }
    return {
        "auroc": _area_up_to(with_origin["fpr"], with_origin["tpr"], 1.0),
        "ap": float(np.sum(np.diff(recall, prepend=0.0) * precision)),
        "f1_max": float(np.max(2 * found / (selected + num_defect))),
        "aupro": _area_up_to(with_origin["fpr"], with_origin["pro"], max_fpr),
    }


def _area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Mean height of the curve (x rising from 0) over [0, limit]."""
    inside = x <= limit
    heights = np.append(y[inside], np.interp(limit, x, y))
    # Of trapezoids; NumPy's own function has one name in NumPy 1 and another in NumPy 2.
    area = np.sum(np.diff(np.append(x[inside], limit)) * (heights[1:] + heights[:-1]) / 2)
    return float(area / limit)


def checked_pair(
    anomaly_map: np.ndarray, mask: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """A map (H, W) and its mask (H, W) bool, as arrays; ``index`` names them in errors."""
    anomaly_map, mask = np.asarray(anomaly_map), np.asarray(mask) != 0
    if anomaly_map.shape != mask.shape or mask.ndim != 2:
        raise ValueError(
            f"Map {index} has shape {anomaly_map.shape}, its mask {mask.shape}; both must be "
            "the same (H, W). Resize the map first."
        )
    if not np.isfinite(anomaly_map).all():
        raise ValueError(f"Map {index} has NaN or infinite values.")
    return anomaly_map, mask


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 8-connected regions of a mask (H, W) bool: their labels (H, W), 0 outside, and pixels
    of each label (1 + regions,)."""
    from scipy import ndimage  # slow to import, and rarely needed

    labels, count = ndimage.label(mask, EIGHT_CONNECTED)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
