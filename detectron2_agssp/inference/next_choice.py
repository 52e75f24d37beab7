"""Which images to label next: those that promise most, and that differ from each other and from
what is labelled.

Shapes: n images, m labelled ones, D numbers of each image's features, P of its thumbnail.
"""

from collections.abc import Sequence

import numpy as np

from detectron2_agssp.data.near_duplicates import SIMILARITY


def uncertainty(scores: np.ndarray, threshold: float) -> float:
    """Of an image's detections: 1 where one's score is the threshold from which it counts, falling
    to 0 towards scores of 0 and 1; 0 without detections.

    Args:
        scores: (K,), in [0, 1].
        threshold: in (0, 1).
    """
    below, above = scores / threshold, (1 - scores) / (1 - threshold)
    return float(np.minimum(below, above).max(initial=0))


def unexplained(anomaly_map: np.ndarray, boxes: np.ndarray, height: int, width: int) -> float:
    """Mean of a map over the image, detections set to zero: what the map calls odd and the detector
    does not see.

    Args:
        anomaly_map: (h, w), in [0, 1].
        boxes: (K, 4) XYXY, in pixels of the image.
        height, width: of the image.
    """
    rows, columns = anomaly_map.shape
    outside = np.ones((rows, columns), bool)
    y, x = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
    for left, top, right, bottom in boxes:
        outside[np.ix_((y >= top) & (y <= bottom), (x >= left) & (x <= right))] = False
    return float((anomaly_map * outside).mean())


def ranks(values: Sequence[float]) -> np.ndarray:
    """Of n values their ranks in [0, 1], the largest 1; equal ones share the mean of theirs."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return np.ones(len(array))
    ordered = np.sort(array)
    first, last = (np.searchsorted(ordered, array, side=side) for side in ("left", "right"))
    return (first + last - 1) / 2 / (len(array) - 1)


def distances_to(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) Euclidean distances of ``vectors`` (n, D) to the nearest of ``known`` (m, D); infinite
    where m is 0."""
    nearest = np.full(len(vectors), np.inf)
    for center in known:
        nearest = np.minimum(nearest, np.linalg.norm(vectors - center, axis=1))
    return nearest


def choose(
    promise: np.ndarray,
    vectors: np.ndarray,
    thumbnails: np.ndarray,
    count: int,
    *,
    known_vectors: np.ndarray,
    known_thumbnails: np.ndarray,
    similarity: float = SIMILARITY,
) -> list[int]:
    """Greedy k-centre, weighted: again and again the image whose promise times its distance to the
    nearest labelled or chosen one is largest. Of near-duplicates one is chosen at most, and none of
    a labelled image.

    Args:
        promise: (n,), in [0, 1].
        vectors: (n, D).
        thumbnails: (n, P), without mean, as
            :func:`~detectron2_agssp.data.near_duplicates.thumbnail` gives them.
        count: how many; fewer where there are no more that differ.
        known_vectors, known_thumbnails: (m, D) and (m, P) of labelled images.
        similarity: correlation of thumbnails from which images are near-duplicates.

    Returns:
        indices, in the order of choice.
    """
    own, known = _unit(thumbnails), _unit(known_thumbnails)
    free = np.ones(len(promise), bool)
    for labelled in known:
        free &= own @ labelled < similarity
    nearest = distances_to(vectors, known_vectors)
    weights = promise + 1e-6
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        # Without anything to be far from, promise alone.
        reach = weights if np.isinf(nearest).all() else weights * (nearest + 1e-12)
        index = int(np.where(free, reach, -np.inf).argmax())
        chosen.append(index)
        free &= own @ own[index] < similarity
        free[index] = False
        nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[index], axis=1))
    return chosen


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
