"""8 x 8 numbers of an image by which its near-duplicates are found among very many.

Images of one camera have edges in the same places, so that small pictures of them are alike
although no surface is seen twice. What is compared is therefore the texture, each place's to its
own contrast: of two different surfaces it has nothing in common, of two exposures, sizes or
compressions of one surface most. A random projection to 64 numbers keeps its correlation
(Johnson and Lindenstrauss, 1984): of two images with the correlation r it is off by about
(1 - r^2) / 8.
"""

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np
import torch

# Side of the compared picture; standard deviation, in its cells, of what is taken off and of the
# neighbourhood whose contrast counts; grey levels added to this contrast, against noise.
SIDE = 64
BLUR = 2.0
FLOOR = 1.0
SIZE = 64
# As it is, mirrored, upside down, turned by 180 degrees.
VIEWS = 4
# Known fingerprints that are compared at once: bounds the memory.
_BLOCK = 16384


def _projection() -> torch.Tensor:
    """(SIDE * SIDE, SIZE) of +1 and -1, the same on every machine."""
    bits = hashlib.shake_256(b"detectron2_agssp fingerprints").digest(SIDE * SIDE * SIZE // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(SIDE * SIDE, SIZE)
    return torch.from_numpy(signs.astype(np.float32) * 2 - 1)


_PROJECTION = _projection()


def texture(grey: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (64, 64) float32: what is left of a small picture when its smooth part is
    taken off and each place is divided by its contrast; of a flat image zeros."""
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), BLUR)
    if np.abs(small).max() < 0.01:
        return np.zeros_like(small)
    small /= np.sqrt(cv2.GaussianBlur(small * small, (0, 0), BLUR)) + FLOOR
    return small - small.mean()


def fingerprint(grey: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (4, 64) float16, unit vectors: of the image and its mirrored views; zeros of
    a flat one, which is like no other."""
    small = texture(grey)
    views = np.stack([small, small[:, ::-1], small[::-1], small[::-1, ::-1]])
    # PyTorch's product keeps to the threads that it was given; NumPy's takes all, for so little.
    projected = (torch.from_numpy(views.reshape(VIEWS, -1)) @ _PROJECTION).numpy()
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return (projected / np.maximum(lengths, 1e-12)).astype(np.float16)


def most_similar(views: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image the most similar known one.

    Args:
        views: (N, 4, 64), of :func:`fingerprint`.
        known: (K, 64), the first views of others.

    Returns:
        correlations of the textures (N,) float32, about -1 without any; indices (N,).
    """
    best = np.full(len(views), -1, np.float32)
    index = np.zeros(len(views), np.int64)
    queries = torch.from_numpy(views.reshape(-1, SIZE).astype(np.float32))
    for start in range(0, len(known), _BLOCK):
        block = torch.from_numpy(known[start : start + _BLOCK].astype(np.float32))
        similar = (queries @ block.T).view(len(views), VIEWS, -1).amax(dim=1)
        value, nearest = (part.numpy() for part in similar.max(dim=1))
        better = value > best
        best[better], index[better] = value[better], start + nearest[better]
    return best, index


class Distinct:
    """Chooses images that are like none chosen before them.

    Args:
        count: images at most, whose fingerprints are then held: 256 bytes each.
        similarity: correlation in (0, 1] from which on two are near-duplicates.
    """

    def __init__(self, count: int, similarity: float):
        if not 0 < similarity <= 1:
            raise ValueError(f"similarity must be in (0, 1], got {similarity}.")
        self.similarity = similarity
        self.chosen: list[int] = []
        self._known = np.empty((count, SIZE), np.float32)

    def add(self, numbers: list[int], views: np.ndarray) -> Iterator[tuple[int, int, float]]:
        """Judges some images, the earlier first.

        Args:
            numbers: of the images, by which they are named.
            views: (N, 4, 64).

        Yields:
            of each near-duplicate its number, that of the chosen one, and the correlation; the
            others are chosen.
        """
        before = len(self.chosen)
        similar, index = most_similar(views, self._known[:before])
        for row, number in enumerate(numbers):
            value, nearest = float(similar[row]), int(index[row])
            fresh = self._known[before : len(self.chosen)]
            if value < self.similarity and len(fresh):
                values, indices = most_similar(views[row : row + 1], fresh)
                value, nearest = float(values[0]), before + int(indices[0])
            if value >= self.similarity:
                yield number, self.chosen[nearest], min(value, 1.0)
                continue
            self._known[len(self.chosen)] = views[row, 0]
            self.chosen.append(number)
