"""Pixel-level figures of anomaly maps against defect masks.

All four are read off one ranking of the pixels by score: as the threshold falls, it accumulates
true positives, false positives, and, for the per-region overlap (PRO), each region's pixels
weighted by 1 / its size.
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
    from scipy import ndimage  # slow to import, and rarely needed

    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be in (0, 1], got {max_fpr}.")
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks.")
    scores, is_defect, region_weight = [], [], []
    num_regions = 0
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        anomaly_map, mask = np.asarray(anomaly_map), np.asarray(mask) != 0
        if anomaly_map.shape != mask.shape or mask.ndim != 2:
            raise ValueError(
                f"Map {index} has shape {anomaly_map.shape}, its mask {mask.shape}; both must be "
                "the same (H, W). Resize the map first."
            )
        if not np.isfinite(anomaly_map).all():
            raise ValueError(f"Map {index} has NaN or infinite values.")
        labels, count = ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64)
        weights = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        weights[0] = 0
        num_regions += count
        scores.append(anomaly_map.ravel())
        is_defect.append(mask.ravel())
        region_weight.append(weights[labels.ravel()])
    if not scores:
        raise ValueError("There are no maps to judge.")
    scores = np.concatenate(scores)
    is_defect = np.concatenate(is_defect)
    num_defect = int(is_defect.sum())
    num_normal = is_defect.size - num_defect
    if num_defect == 0 or num_normal == 0:
        raise ValueError(
            f"The masks have {num_defect} defect and {num_normal} normal pixels; the metrics need "
            "both."
        )
    order = np.argsort(scores)[::-1]  # not of -scores, which unsigned numbers do not have
    ranked = scores[order]
    # Thresholds lie between different scores only: equal ones are found together.
    last_of_equal = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    found = np.cumsum(is_defect[order])[last_of_equal]
    selected = last_of_equal + 1
    overlap = np.cumsum(np.concatenate(region_weight)[order])[last_of_equal] / num_regions

    recall = found / num_defect
    false_positive_rate = (selected - found) / num_normal
    precision = found / selected
    with_origin = {
        name: np.concatenate([[0.0], values])
        for name, values in (("fpr", false_positive_rate), ("tpr", recall), ("pro", overlap))
    }
    return {
        "auroc": float(np.trapezoid(with_origin["tpr"], with_origin["fpr"])),
        "ap": float(np.sum(np.diff(recall, prepend=0.0) * precision)),
        "f1_max": float(np.max(2 * found / (selected + num_defect))),
        "aupro": _area_up_to(with_origin["fpr"], with_origin["pro"], max_fpr),
    }


def _area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Mean height of the curve (x rising from 0) over [0, limit]."""
    inside = x <= limit
    end = np.interp(limit, x, y)
    return float(np.trapezoid(np.append(y[inside], end), np.append(x[inside], limit)) / limit)
