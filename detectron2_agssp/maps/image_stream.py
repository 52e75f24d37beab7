"""A lazy stream of decoded images, batched by shape: memory does not grow with their number."""

import heapq
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detectron2_agssp.io.files import escaped_name, file_digest
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.geometry import InputGeometry
from detectron2_agssp.maps.manifest import seeded_rank

# Images of their own aspect ratio have few sizes in common: more of them make fuller batches.
ASPECT_CHUNK = 4


@dataclass
class CropGroup:
    """Crops of one shape and one source.

    Attributes:
        crops: (K, 3, S_h, S_w) uint8, RGB.
        images: (K,) list, which image of the batch each is of.
        source: of them all; "" unless the loader separates sources.
    """

    crops: Tensor
    images: list[int]
    source: str = ""


@dataclass
class DecodedBatch:
    """Images that could be read, as groups of crops, with ``infos`` (image, height, width, source,
    and what :func:`file_state` says) and ``layouts`` (origins and grid, see
    :class:`~detectron2_agssp.maps.geometry.Prepared`); and those that could not, as (image,
    reason)."""

    groups: list[CropGroup]
    infos: list[dict]
    layouts: list[tuple]
    failures: list[dict]

    def crop_batches(self, size: int) -> Iterator[tuple[Tensor, list[int], str]]:
        """Yields at most ``size`` crops at a time: float32 (K, 3, S_h, S_w), their images, and
        their source."""
        for group in self.groups:
            for start in range(0, len(group.images), size):
                part = slice(start, start + size)
                yield group.crops[part].float(), group.images[part], group.source


class ImageLoader:
    """Decodes images in worker processes, lazily, in chunks of given paths.

    Args:
        image_root: folder, or a URL that iopath's PathManager knows, that the paths are below.
        geometry: how images become crops.
        batch_size: crops a batch for the scorer.
        num_workers: processes; 0 decodes in this one.
        reader: a file's path -> (H, W, 3) uint8, such as an :class:`ImageReader`.
        separate_sources: groups hold images of one source.
    """

    def __init__(
        self,
        image_root: str | Path,
        *,
        geometry: InputGeometry,
        batch_size: int,
        num_workers: int = 0,
        reader: Callable | None = None,
        separate_sources: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"AGSSP.SCORER.BATCH_SIZE must be positive, got {batch_size}.")
        self.image_root = image_root
        self.batch_size = batch_size
        # A tiled image is a chunk of its own: it may be hundreds of crops.
        factor = {"square": batch_size, "aspect": batch_size * ASPECT_CHUNK, "tile": 1}
        self.chunk_size = factor[geometry.mode]
        self.num_workers = num_workers
        self.dataset = _DecodedImages(image_root, geometry, reader or ImageReader())
        self.collate = _Collate(separate_sources)

    def __call__(self, paths: Iterable[str]) -> Iterator[DecodedBatch]:
        # The paths are the "indices": a lazy stream, so that their number costs no memory.
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=chunks(paths, self.chunk_size),
                num_workers=self.num_workers,
                collate_fn=self.collate,
            )
        )


class _DecodedImages(Dataset):
    def __init__(self, root: str | Path, geometry: InputGeometry, reader: Callable):
        self.root = str(root)
        self.geometry = geometry
        self.reader = reader

    def __getitem__(self, path: str):
        if (name := escaped_name(path)) != path:
            return {"image": name, "reason": "its name is not UTF-8: rename it"}
        file = os.path.join(self.root, path)
        try:
            # Before it is read: what is written meanwhile shows in the next run.
            state = file_state(file)
            image = self.reader(file)
        except (ValueError, OSError) as error:
            return {"image": path, "reason": f"{type(error).__name__}: {error}"}
        height, width = image.shape[:2]
        source = source_of(path, self.root)
        info = {"image": path, "height": height, "width": width, "source": source}
        return info | state, self.geometry.prepare(image)


class _Collate:
    def __init__(self, separate_sources: bool):
        self.separate_sources = separate_sources

    def __call__(self, samples: list) -> DecodedBatch:
        read = [sample for sample in samples if isinstance(sample, tuple)]
        members: dict[tuple, list[int]] = {}
        for index, (info, prepared) in enumerate(read):
            source = info["source"] if self.separate_sources else ""
            members.setdefault((source, prepared.crops.shape[1:]), []).append(index)
        groups = []
        for (source, _), indices in members.items():
            crops = np.concatenate([read[index][1].crops for index in indices])
            owners = [index for index in indices for _ in read[index][1].crops]
            groups.append(CropGroup(torch.from_numpy(crops), owners, source))
        return DecodedBatch(
            groups=groups,
            infos=[info for info, _ in read],
            layouts=[(prepared.origins, prepared.grid) for _, prepared in read],
            failures=[sample for sample in samples if not isinstance(sample, tuple)],
        )


def file_state(path: str) -> dict:
    """Size, time of the last change (nanoseconds) and digest of an image file, by which a later run
    tells whether it is the same; nothing of a remote one.

    Raises:
        OSError: there is none.
    """
    if "://" in path:
        return {}
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return {}
    return {"bytes": status.st_size, "modified": status.st_mtime_ns, "digest": file_digest(path)}


def is_same_file(path: str, state: dict) -> bool:
    """Whether the file at ``path`` is that of which :func:`file_state` gave ``state``. Where only
    its time differs, as of a copy, the digest decides; a remote file is not asked."""
    if "://" in path or "digest" not in state:
        return True
    try:
        status = os.stat(path)
        if status.st_size != state.get("bytes"):
            return False
        return status.st_mtime_ns == state.get("modified") or file_digest(path) == state["digest"]
    except OSError:
        return False


def source_of(image: str, image_root: str | Path) -> str:
    """An image's source: its first folder, or the root's name where it lies in the root."""
    return image.split("/")[0] if "/" in image else os.path.basename(str(image_root).rstrip("/"))


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Consecutive lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def sample_paths(paths: Iterable[str], count: int, seed: int) -> list[str]:
    """``count`` of ``paths`` chosen by a seeded hash of each: the choice does not depend on their
    order, and memory only on ``count``. Returned in the given order."""
    ranked = ((seeded_rank(seed, path), position, path) for position, path in enumerate(paths))
    chosen = heapq.nsmallest(count, ranked)
    return [path for _, _, path in sorted(chosen, key=lambda item: item[1])]


def sample_paths_by_source(
    paths: Iterable[str], count: int, seed: int, image_root: str | Path
) -> dict[str, list[str]]:
    """:func:`sample_paths` within each source, in the order of their first images."""
    by_source = paths_by_source(paths, image_root)
    return {source: sample_paths(own, count, seed) for source, own in by_source.items()}


def paths_by_source(paths: Iterable[str], image_root: str | Path) -> dict[str, list[str]]:
    """Source -> its ``paths``, in the order of their first."""
    by_source: dict[str, list[str]] = {}
    for path in paths:
        by_source.setdefault(source_of(path, image_root), []).append(path)
    return by_source
