"""The map folder: ``manifest.jsonl``, ``scorer.json``, ``scorer.npz``, ``maps/**.npy``.

``manifest.jsonl`` has one object per image (``image``, ``map``, ``height``, ``width``, ``source``,
``score``, and ``bytes``, ``modified`` and ``digest`` of the image file, by which a later run sees
that it changed); ``maps/<image's relative path>.npy`` is float16 in [0, 1] on the scorer's own
grid, so images that differ only in suffix or folder never collide. Maps are renamed into place
before their manifest line is appended: a killed run leaves a valid folder, and the next run goes on
from there. Of several lines of an image the last counts. A shard of a divided run appends to a
manifest of its own, until they are merged.
"""

import contextlib
import hashlib
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from detectron2_agssp.io.files import (
    TEMPORARY_PATTERN,
    atomic_write,
    lock_file,
    read_json,
    safe_join,
    user_path,
    write_json,
)
from detectron2_agssp.maps.arrays import read_npy, read_npz
from detectron2_agssp.maps.manifest import (
    append_lines,
    check_entries,
    newest,
    truncate_unfinished_line,
    write_sorted,
)

Shard = tuple[int, int]
START_ANEW = "Delete the folder and run agssp maps again, or choose another one."
# Of scorer.json.
_SCORER_KINDS: dict[str, type | tuple] = {
    "SCORER": dict,
    "CALIBRATION": dict,
    "BIT_DEPTH": int,
    "FLOAT_MAX": (int, float),
    "image_root": str,
    "fingerprint": str,
    "calibration": dict,
}
# Bytes of the longest name of a file.
MAX_NAME = 255


class MapStore:
    """A map folder, for reading and for resumable writing.

    Args:
        root: the folder; created by the first write.
        shard: (index, count) of a divided run, whose manifest is then written; None: the whole.
    """

    def __init__(self, root: str | Path, shard: Shard | None = None):
        self.root = user_path(root)
        suffix = "" if shard is None else f".shard-{shard[0]}-of-{shard[1]}"
        self.shard = shard
        self.manifest_path = self.root / f"manifest{suffix}.jsonl"
        self.skipped_path = self.root / f"skipped{suffix}.jsonl"
        self.scorer_path = self.root / "scorer.json"
        self.state_path = self.root / "scorer.npz"

    @staticmethod
    def map_name(image: str) -> str:
        """Path of an image's map, relative to the folder."""
        return f"maps/{derived_name(image, '.npy')}"

    # ---- the scorer ----------------------------------------------------------------------

    def read_scorer(self) -> dict | None:
        """Content of ``scorer.json``; None where there is none yet.

        Raises:
            ValueError: it is damaged.
        """
        if not self.scorer_path.exists():
            return None
        info = read_json(self.scorer_path)
        fault = "no JSON object" if not isinstance(info, dict) else _scorer_fault(info)
        if fault:
            raise ValueError(f"{self.scorer_path} is damaged: {fault}. {START_ANEW}")
        return info

    def write_scorer(self, info: dict, state: dict[str, np.ndarray]) -> None:
        """Records the fitted scorer: readable settings, and its arrays in ``scorer.npz``."""
        with atomic_write(self.state_path, "wb") as file:
            np.savez(file, **state)
        write_json(self.scorer_path, info)

    def read_scorer_state(self) -> dict[str, np.ndarray]:
        """The fitted scorer's arrays.

        Raises:
            FileNotFoundError, ValueError: they are missing or damaged.
        """
        try:
            return read_npz(self.state_path)
        except ValueError as error:
            raise ValueError(f"{self.state_path} is damaged: {error}. {START_ANEW}") from error

    # ---- the manifest --------------------------------------------------------------------

    def entries(self) -> Iterator[dict]:
        """The manifest's entries, each image's last one, in the file's order.

        Raises:
            FileNotFoundError: the folder has no manifest.
            ValueError: an entry is damaged, or its map not below the folder (it is named).
        """
        if not self.manifest_path.exists():
            raise FileNotFoundError(
                f"{self.root} has no manifest.jsonl, so it is not a map folder. Make one with "
                "agssp maps IMAGE_DIR MAP_DIR."
            )
        return check_entries(newest([self.manifest_path]).values(), self.manifest_path)

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

    def recorded(self) -> dict[str, dict]:
        """Image -> its last entry in the whole's manifest or a shard's."""
        entries = newest(self._all("manifest"), at_work=True)
        for _ in check_entries(entries.values(), self.manifest_path):
            pass
        return entries

    def write_map(self, image: str, calibrated: np.ndarray) -> None:
        """Stores one calibrated map (h, w), in [0, 1], as float16."""
        # Temporary files lie in the root, where they are found without a walk.
        path = safe_join(self.root, self.map_name(image))
        with atomic_write(path, "wb", temporary_root=self.root) as file:
            np.save(file, calibrated.astype(np.float16))

    def append(self, entries: list[dict]) -> None:
        """Adds manifest lines, in one write. Their maps must be written already."""
        self.root.mkdir(parents=True, exist_ok=True)
        append_lines(self.manifest_path, entries)

    # ---- divided runs --------------------------------------------------------------------

    def _all(self, kind: str) -> list[Path]:
        """The whole's "manifest" or "skipped" file (if there is one or not), and the shards'."""
        return [self.root / f"{kind}.jsonl", *sorted(self.root.glob(f"{kind}.shard-*.jsonl"))]

    def merge(self, images: Iterable[str] | None = None, failed: Iterable[str] = ()) -> int:
        """Joins the shards' manifests and lists of skipped images into the whole's, each sorted
        and with one line per image. A kill in between loses nothing: it is done again.

        Args:
            images: those that there are; others leave the manifest, and their maps go. None: all.
            failed: those that could not be scored, which leave it too.

        Returns:
            the number of images that left.
        """
        whole, *shards = self._all("manifest")
        whole_skipped, *shards_skipped = self._all("skipped")
        entries, skipped = newest([whole, *shards]), newest([whole_skipped], any_name=True)
        fresh = newest(shards_skipped, any_name=True)
        images = None if images is None else set(images)
        failed = {*failed, *fresh}
        gone = {i for i in entries if i in failed or (images is not None and i not in images)}
        kept = {image: entry for image, entry in entries.items() if image not in gone}
        skipped = {image: line for image, line in (skipped | fresh).items() if image not in kept}
        if whole_skipped.exists() or shards_skipped:
            write_sorted(whole_skipped, skipped.values())
        if whole.exists() or shards:
            write_sorted(whole, kept.values())
        for image in gone:
            # What a run made by itself, wherever the line says that it is.
            safe_join(self.root, self.map_name(image)).unlink(missing_ok=True)
        for path in (*shards, *shards_skipped):
            path.unlink()
        return len(gone)

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


def _scorer_fault(info: dict) -> str:
    """What is wrong with what there is in a ``scorer.json``; "" where its values can be used."""
    for key, kind in _SCORER_KINDS.items():
        if key in info and not isinstance(info[key], kind):
            return f"{key} is {reprlib.repr(info[key])}"
    calibration = info.get("calibration", {})
    sources = calibration.get("sources", {})
    if not isinstance(sources, dict):
        return f"the sources of its calibration are {reprlib.repr(sources)}"
    if fault := _calibration_fault(calibration):
        return f"its calibration {fault}"
    for source, own in sources.items():
        if not isinstance(own, dict) or not {"low", "high"} <= own.keys():
            return f"its calibration of {source!r} is {reprlib.repr(own)}"
        if fault := _calibration_fault(own):
            return f"its calibration of {source!r} {fault}"
    return ""


def _calibration_fault(calibration: dict) -> str:
    ends = [calibration.get(end, at) for at, end in enumerate(("low", "high"))]
    border = calibration.get("border", [])
    if not isinstance(border, list) or not all(
        type(value) in (int, float) and abs(value) < 1e300 for value in (*ends, *border)
    ):
        return f"is {reprlib.repr(calibration)}"
    return "" if ends[0] < ends[1] else "needs low < high"


def derived_name(image: str, suffix: str) -> str:
    """Path of a file that is made of an image. A name that the suffix would make too long is cut,
    and ends with a digest instead of an image's suffix: no two images share a file."""
    folder, slash, name = image.rpartition("/")
    encoded = os.fsencode(name)
    if len(encoded) > MAX_NAME - len(suffix):
        digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
        name = f"{encoded[:200].decode(errors='ignore')}~{digest}"
    return f"{folder}{slash}{name}{suffix}"


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
    """Whether a stored map is constant, other than 0 and 1. A map of zeros says that the image has
    no anomaly, of ones that it is all one; any other constant, that the scorer saw no difference
    between any two of its cells."""
    low, high = anomaly_map.min(), anomaly_map.max()
    return bool(low == high and low not in (0, 1))


def load_map(path: str | Path) -> np.ndarray:
    """Reads one stored map as float32 (h, w) in [0, 1].

    Raises:
        FileNotFoundError: no such map.
        ValueError: not a 2-D array of numbers, values that are NaN, infinite or outside [0, 1],
            or a map that :func:`sees_nothing`.
    """
    try:
        stored = read_npy(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Anomaly map {str(path)!r} is missing although the manifest lists it. Run "
            "agssp maps again on the same folders: it makes what is missing."
        ) from error
    except (ValueError, OSError) as error:
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
