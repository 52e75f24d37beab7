"""Files of JSON lines, one object an image, in the order of a folder walk; any size, little memory.

A run appends in that order, so a file is a few sorted stretches: one a run, or one a shard.
"""

import heapq
import itertools
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

from detectron2_agssp.io.files import atomic_write


def sort_key(image: str) -> list[str]:
    """Order of a folder walk, in which "a/b" comes before "a.jpg" only if "a" does."""
    return image.split("/")


def json_line(entry: dict) -> str:
    """One object as a line of UTF-8."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:
        # A file name that is not UTF-8; escaped, so that the file is.
        return json.dumps(entry) + "\n"
    return line


def truncate_unfinished_line(path: Path) -> bool:
    """Removes what a killed run left after the last newline; True if there was something."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        # A line is far shorter than a block, so one block from the end holds its start.
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            block = file.read(position - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position == end:
            return False
        file.truncate(position)
    return True


def merge_sorted(paths: Iterable[Path], output: Path) -> None:
    """Writes the lines of all ``paths`` into ``output``, sorted by image, each image once (its
    first line), atomically. Memory depends on the number of sorted stretches, not of lines."""
    stretches = [(path, start) for path in paths for start in _stretches(path)]
    if output.exists() and [start for _, start in stretches] == [0] and stretches[0][0] == output:
        return
    merged = heapq.merge(
        *(_lines_of_stretch(path, start) for path, start in stretches), key=lambda item: item[0]
    )
    with atomic_write(output) as file:
        for _, same in itertools.groupby(merged, key=lambda item: item[0]):
            file.write(json_line(next(same)[1]))


def _stretches(path: Path) -> Iterator[int]:
    """Byte offsets at which strictly rising stretches of lines begin."""
    previous = None
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            key = sort_key(json.loads(line)["image"])
            if previous is None or key <= previous:
                yield offset
            previous = key
            offset += len(line)


def _lines_of_stretch(path: Path, start: int) -> Iterator[tuple[list[str], dict]]:
    previous = None
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            entry = json.loads(line)
            key = sort_key(entry["image"])
            if previous is not None and key <= previous:
                return
            yield key, entry
            previous = key


def finite_score(entry: dict, path: Path) -> float:
    """The image score of an entry of the manifest ``path``.

    Raises:
        ValueError: it is not a finite number.
    """
    score = entry["score"]
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(
            f"{path}: image {entry['image']!r} has score {score!r}; expected a finite number. "
            "Delete its map and run agssp maps again."
        )
    return float(score)


def seeded_rank(seed: int, image: str) -> int:
    """A number that orders images at random, but the same way each time and in any folder."""
    digest = blake2b(os.fsencode(f"{seed}:{image}"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class PathSet:
    """A set of paths that keeps 8 bytes of each (a hash; a collision in a million images has a
    probability of 3e-8)."""

    def __init__(self, paths: Iterable[str] = ()):
        self._hashes = np.unique(np.asarray(array("Q", map(self._hash, paths)), np.uint64))

    def __contains__(self, path: str) -> bool:
        hashed = np.uint64(self._hash(path))
        index = np.searchsorted(self._hashes, hashed)
        return bool(index < len(self._hashes) and self._hashes[index] == hashed)

    def __len__(self) -> int:
        return len(self._hashes)

    @staticmethod
    def _hash(path: str) -> int:
        return int.from_bytes(blake2b(os.fsencode(path), digest_size=8).digest(), "little")
