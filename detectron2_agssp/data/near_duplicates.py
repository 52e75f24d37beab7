"""Images that are in two folders: the same file, or another exposure of the same surface."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from detectron2_agssp.io.images import read_image
from detectron2_agssp.ops import min_cosine_distance

# Side of the compared thumbnails, and the blur (standard deviation, cells) that is taken off them:
# brightness and its gradients differ between exposures, the texture does not.
THUMBNAIL = 32
BACKGROUND_BLUR = 4.0
SIMILARITY = 0.9


def find_near_duplicates(
    images: Sequence[str | Path],
    references: Sequence[str | Path],
    similarity: float = SIMILARITY,
    *,
    progress: bool = True,
) -> dict[str, tuple[str, float]]:
    """Those of ``images`` that are among ``references``, or nearly.

    Two images are the same if their bytes are, and nearly the same if the correlation of their
    thumbnails (grey, 32 x 32, background taken off) is at least ``similarity``. Views that are
    shifted or turned against each other are not found. Takes 4 KiB of memory an image.

    Args:
        images, references: paths.
        similarity: in (0, 1].

    Returns:
        Path of the image -> path of the most similar reference, and their correlation (1 for the
        same bytes).

    Raises:
        ValueError: ``similarity`` out of its range.
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be in (0, 1], got {similarity}.")
    if not images or not references:
        return {}
    digests: dict[bytes, str] = {}
    known = []
    for path, digest, thumbnail in _read(references, "references", progress):
        digests.setdefault(digest, path)
        known.append(thumbnail)
    found, others, queries = {}, [], []
    for path, digest, thumbnail in _read(images, "images", progress):
        if digest in digests:
            found[path] = (digests[digest], 1.0)
        else:
            others.append(path)
            queries.append(thumbnail)
    if not others:
        return found
    # At once, or the references would be normalised again for each image.
    distances, nearest = min_cosine_distance(
        torch.from_numpy(np.stack(queries)), torch.from_numpy(np.stack(known)), return_index=True
    )
    for path, distance, index in zip(others, distances.tolist(), nearest.tolist(), strict=True):
        if 1 - distance >= similarity:
            found[path] = (str(references[index]), 1 - distance)
    return found


def _read(paths, description: str, progress: bool) -> Iterator[tuple[str, bytes, np.ndarray]]:
    for path in tqdm(paths, desc=description, unit="img", disable=not progress):
        image = read_image(path)
        yield str(path), hashlib.sha256(Path(path).read_bytes()).digest(), thumbnail(image)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Of an image (H, W, 3): (1024,) float32 without mean; all zeros for a flat image, which is
    then like no other."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), BACKGROUND_BLUR)
    small -= small.mean()
    return small.ravel() if np.abs(small).max() > 0.01 else np.zeros(small.size, np.float32)
