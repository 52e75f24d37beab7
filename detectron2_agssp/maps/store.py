"""The map folder: ``manifest.jsonl``, ``scorer.json``, ``scorer.npz``, ``maps/**.npy``.

``manifest.jsonl`` has one object an image (``image``, ``map``, ``height``, ``width``, ``source``,
``score``); ``maps/<image's relative path>.npy`` is float16 in [0, 1] on the scorer's own grid, so
images that differ only in suffix or folder never collide. Maps are renamed into place before their
manifest line is appended: a killed run leaves a valid folder, and the next run goes on from there.
A shard of a divided run appends to a manifest of its own, until they are merged.
"""

import contextlib
import json
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detectron2_agssp.io.files import TEMPORARY_PATTERN, atomic_write, lock_file, write_json
from detectron2_agssp.maps.manifest import (
    PathSet,
    json_line,
    merge_sorted,
    truncate_unfinished_line,
)

MANIFEST_KEYS = ("image", "map", "height", "width", "source", "score")
Shard = tuple[int, int]


class MapStore:
    """A map folder, for reading and for resumable writing.

    Args:
        root: the folder; created by the first write.
        shard: (index, count) of a divided run, whose manifest is then written; None: the whole.
    """

    def __init__(self, root: str | Path, shard: Shard | None = None):
        self.root = Path(root)
        suffix = "" if shard is None else f".shard-{shard[0]}-of-{shard[1]}"
        self.shard = shard
        self.manifest_path = self.root / f"manifest{suffix}.jsonl"
        self.skipped_path = self.root / f"skipped{suffix}.jsonl"
        self.scorer_path = self.root / "scorer.json"
        self.state_path = self.root / "scorer.npz"

    @staticmethod
    def map_name(image: str) -> str:
        """Path of an image's map, relative to the folder."""
        return f"maps/{image}.npy"

    # ---- the scorer ----------------------------------------------------------------------

    def read_scorer(self) -> dict | None:
        """Content of ``scorer.json``; None where there is none yet."""
        if not self.scorer_path.exists():
            return None
        return json.loads(self.scorer_path.read_text())

    def write_scorer(self, info: dict, state: dict[str, np.ndarray]) -> None:
        """Records the fitted scorer: readable settings, and its arrays in ``scorer.npz``."""
        with atomic_write(self.state_path, "wb") as file:
            np.savez(file, **state)
        write_json(self.scorer_path, info)

    def read_scorer_state(self) -> dict[str, np.ndarray]:
        with np.load(self.state_path) as archive:
            return dict(archive)

    # ---- the manifest --------------------------------------------------------------------

    def entries(self) -> Iterator[dict]:
        """Yields the manifest's entries, in the file's order.

        Raises:
            FileNotFoundError: the folder has no manifest.
            ValueError: a line is not a manifest entry (its number is named).
        """
        if not self.manifest_path.exists():
            raise FileNotFoundError(
                f"{self.root} has no manifest.jsonl, so it is not a map folder. Make one with "
                "agssp maps IMAGE_DIR MAP_DIR."
            )
        with open(self.manifest_path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    entry = json.loads(line)
                    missing = [key for key in MANIFEST_KEYS if key not in entry]
                except (json.JSONDecodeError, TypeError) as error:
                    raise ValueError(
                        f"{self.manifest_path}:{number} is not JSON ({error}); the run that wrote "
                        "it was probably killed. Run the map tool again to repair it."
                    ) from error
                if missing:
                    raise ValueError(f"{self.manifest_path}:{number} lacks {missing}.")
                yield entry

    def repair(self) -> bool:
        """Removes what a killed run left: temporary files, and lines that are unfinished at the
        manifests' ends; True if there was such a line. A shard looks after its own manifest only:
        the others may be at work."""
        if self.shard is not None:
            return self.manifest_path.exists() and truncate_unfinished_line(self.manifest_path)
        for temporary in self.root.glob(TEMPORARY_PATTERN):
            temporary.unlink()
        existing = [path for path in self._all("manifest") if path.exists()]
        # All of them, not up to the first that was cut.
        return sum(truncate_unfinished_line(path) for path in existing) > 0

    def finished(self) -> PathSet:
        """The images that have a manifest line and a map."""
        return PathSet(self._finished())

    def _finished(self) -> Iterator[str]:
        for path in self._all("manifest"):
            if not path.exists():
                continue
            with open(path, encoding="utf-8") as file:
                for line in file:
                    # Another shard may be at its last line.
                    if not line.endswith("\n"):
                        break
                    entry = json.loads(line)
                    if (self.root / entry["map"]).exists():
                        yield entry["image"]

    def write_map(self, image: str, calibrated: np.ndarray) -> None:
        """Stores one calibrated map (h, w), in [0, 1], as float16."""
        # Temporary files lie in the root, where they are found without a walk.
        path = self.root / self.map_name(image)
        with atomic_write(path, "wb", temporary_root=self.root) as file:
            np.save(file, calibrated.astype(np.float16))

    def append(self, entries: list[dict]) -> None:
        """Adds manifest lines, in one write. Their maps must be written already."""
        text = "".join(map(json_line, entries))
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.manifest_path, "a", encoding="utf-8") as file:
            file.write(text)

    def sort_manifest(self) -> None:
        """Rewrites the manifest sorted by image, each image once, unless it is so already."""
        merge_sorted([self.manifest_path], self.manifest_path)

    # ---- divided runs --------------------------------------------------------------------

    def _all(self, kind: str) -> list[Path]:
        """The whole's "manifest" or "skipped" file (if there is one or not), and the shards'."""
        return [self.root / f"{kind}.jsonl", *sorted(self.root.glob(f"{kind}.shard-*.jsonl"))]

    def merge_shards(self) -> None:
        """Joins the shards' manifests and lists of skipped images into the whole's; where there
        are none, sorts the manifest. A kill in between loses nothing: it is done again."""
        for kind in ("skipped", "manifest"):
            whole, *shards = self._all(kind)
            existing = [path for path in (whole, *shards) if path.exists()]
            if existing:
                merge_sorted(existing, whole)
            for path in shards:
                path.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other runs out of the folder (of this shard) until the block ends.

        Raises:
            OSError: another run is writing.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.ExitStack() as locks:
                self._lock(locks, self.root, shared=self.shard is not None, wait=False)
                if self.shard is not None:
                    self.manifest_path.touch()
                    self._lock(locks, self.manifest_path, wait=False)
                yield
        finally:
            # A run that failed before it wrote anything leaves nothing.
            with contextlib.suppress(OSError):
                self.root.rmdir()

    @contextlib.contextmanager
    def fitting_lock(self) -> Iterator[None]:
        """One shard at a time: the others wait for the scorer that the first one fits."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / TEMPORARY_PATTERN.replace("*", "fitting")
        path.touch()
        with contextlib.ExitStack() as locks:
            self._lock(locks, path)
            try:
                yield
            finally:
                if self.shard is None:
                    path.unlink()

    def _lock(self, locks: contextlib.ExitStack, path: Path, **how: bool) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        locks.callback(os.close, descriptor)
        if not lock_file(descriptor, **how):
            raise OSError(
                f"Another run is writing to {self.root}. Wait for it, or divide the work by "
                "--shard 0/N, 1/N, ... (each shard once)."
            )


def parse_shard(text: str) -> Shard | None:
    """ "i/n", 0 <= i < n, as (i, n); None for "".

    Raises:
        ValueError: anything else.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"A shard is i/n with 0 <= i < n, such as 0/8; got {text!r}.")
    return int(match[1]), int(match[2])


def sees_nothing(anomaly_map: np.ndarray) -> bool:
    """Whether a map is constant, other than 0. A map of zeros says that the image has no anomaly;
    any other constant, that the scorer saw no difference between any two of its cells."""
    return bool(anomaly_map.min() == anomaly_map.max() != 0)


def load_map(path: str | Path) -> np.ndarray:
    """Reads one stored map as float32 (h, w) in [0, 1].

    Raises:
        FileNotFoundError: no such map.
        ValueError: not a 2-D array of numbers, values that are NaN, infinite or outside [0, 1],
            or a map that :func:`sees_nothing`.
    """
    try:
        with open(path, "rb") as file:
            stored = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Anomaly map {str(path)!r} is missing although the manifest lists it. Run "
            "agssp maps again on the same folders: it makes what is missing."
        ) from error
    except (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(
            f"Anomaly map {str(path)!r} is not a readable .npy file ({error}). Delete it and run "
            "agssp maps again."
        ) from error
    if stored.ndim != 2 or stored.size == 0 or stored.dtype.kind not in "fiu":
        raise ValueError(
            f"Anomaly map {str(path)!r} has shape {stored.shape} and type {stored.dtype}; expected "
            "numbers (h, w). Delete it and run agssp maps again."
        )
    anomaly_map = stored.astype(np.float32)
    low, high = anomaly_map.min(), anomaly_map.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"Anomaly map {str(path)!r} has values from {low} to {high}; expected numbers in "
            "[0, 1]. Delete it and run agssp maps again."
        )
    if sees_nothing(anomaly_map):
        raise ValueError(
            f"Anomaly map {str(path)!r} is constant ({low:.3g}): the scorer saw no difference "
            "between any two cells. Delete it and make it again, or leave its image out."
        )
    return anomaly_map
