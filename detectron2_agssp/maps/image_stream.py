"""A lazy stream of decoded, equally sized images: memory does not grow with their number."""

import hashlib
import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from detectron2_agssp.data.image_io import read_image


class ImageLoader:
    """Decodes images in worker processes, lazily, in batches of given paths.

    Args:
        image_root: folder that the paths are relative to.
        image_size: side in pixels of the square that images are resized to.
        batch_size: images a batch.
        num_workers: processes; 0 decodes in this one.
        bit_depth: see :func:`~detectron2_agssp.data.image_io.read_image`.
    """

    def __init__(
        self,
        image_root: Path,
        *,
        image_size: int,
        batch_size: int,
        num_workers: int = 0,
        bit_depth: int = 0,
    ):
        if batch_size < 1:
            raise ValueError(f"AGSSP.SCORER.BATCH_SIZE must be positive, got {batch_size}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.dataset = _DecodedImages(image_root, image_size, bit_depth)

    def __call__(self, paths: Iterable[str]) -> Iterator["DecodedBatch"]:
        # The paths are the "indices": a lazy stream, so that their number costs no memory.
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=chunks(paths, self.batch_size),
                num_workers=self.num_workers,
                collate_fn=_collate,
            )
        )


@dataclass
class DecodedBatch:
    """Images that could be read, (N, 3, S, S) uint8 RGB, with ``infos`` (image, height, width),
    and those that could not, as (image, reason)."""

    images: torch.Tensor
    infos: list[dict]
    failures: list[dict]


class _DecodedImages(Dataset):
    def __init__(self, root: Path, image_size: int, bit_depth: int):
        self.root = root
        self.image_size = image_size
        self.bit_depth = bit_depth

    def __getitem__(self, path: str):
        try:
            image = read_image(self.root / path, bit_depth=self.bit_depth)
        except (ValueError, OSError) as error:
            return {"image": path, "reason": f"{type(error).__name__}: {error}"}
        height, width = image.shape[:2]
        info = {"image": path, "height": height, "width": width}
        return info, resize_to_square(image, self.image_size)


def resize_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3): averaging where it shrinks, bilinear where it grows.

    Side by side: of a long, narrow strip one side shrinks and the other grows.
    """
    height, width = image.shape[:2]
    if max(height, width) > size:
        within = (min(width, size), min(height, size))
        image = cv2.resize(image, within, interpolation=cv2.INTER_AREA)
    if min(height, width) < size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image


def _collate(samples: list) -> DecodedBatch:
    read = [sample for sample in samples if isinstance(sample, tuple)]
    images = [torch.from_numpy(pixels).permute(2, 0, 1) for _, pixels in read]
    return DecodedBatch(
        images=torch.stack(images) if images else torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        infos=[info for info, _ in read],
        failures=[sample for sample in samples if not isinstance(sample, tuple)],
    )


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Consecutive lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def sample_paths(paths: Iterable[str], count: int, seed: int) -> list[str]:
    """``count`` of ``paths`` chosen by a seeded hash of each: the choice does not depend on their
    order, and memory only on ``count``. Returned in the given order."""

    def rank(path: str) -> bytes:
        return hashlib.blake2b(os.fsencode(f"{seed}:{path}"), digest_size=8).digest()

    ranked = ((rank(path), position, path) for position, path in enumerate(paths))
    chosen = heapq.nsmallest(count, ranked)
    return [path for _, _, path in sorted(chosen, key=lambda item: item[1])]
