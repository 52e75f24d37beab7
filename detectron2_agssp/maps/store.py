"""The map folder: ``manifest.jsonl``, ``scorer.json``, ``scorer.npz``, ``maps/**.npy``.

``manifest.jsonl`` has one object an image (``image``, ``map``, ``height``, ``width``, ``source``,
``score``); ``maps/<image's relative path>.npy`` is float16 in [0, 1] on the scorer's own grid, so
images that differ only in suffix or folder never collide. Maps are renamed into place before their
manifest line is appended: a killed run leaves a valid folder, and the next run goes on from there.
"""

import hashlib
import json
import os
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detectron2_agssp.utils.files import TEMPORARY_PATTERN, atomic_write, write_json

MANIFEST_KEYS = ("image", "map", "height", "width", "source", "score")


class MapStore:
    """A map folder, for reading and for resumable writing.

    Args:
        root: the folder; created by the first write.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.manifest_path = self.root / "manifest.jsonl"
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
                "tools/generate_anomaly_maps.py IMAGE_DIR MAP_DIR."
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
        """Removes what a killed run left: temporary files, and a line that is unfinished at the
        manifest's end; True if there was such a line."""
        for temporary in self.root.rglob(TEMPORARY_PATTERN):
            temporary.unlink()
        if not self.manifest_path.exists():
            return False
        with open(self.manifest_path, "rb+") as file:
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

    def finished(self) -> "PathSet":
        """The images that have a manifest line and a map."""
        done = PathSet()
        if self.manifest_path.exists():
            for entry in self.entries():
                if (self.root / entry["map"]).exists():
                    done.add(entry["image"])
        return done

    def write_map(self, image: str, calibrated: np.ndarray) -> None:
        """Stores one calibrated map (h, w), in [0, 1], as float16."""
        with atomic_write(self.root / self.map_name(image), "wb") as file:
            np.save(file, calibrated.astype(np.float16))

    def append(self, entries: list[dict]) -> None:
        """Adds manifest lines, in one write. Their maps must be written already."""
        text = "".join(map(_manifest_line, entries))
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.manifest_path, "a", encoding="utf-8") as file:
            file.write(text)

    def sort_manifest(self) -> None:
        """Rewrites the manifest sorted by image, each image once, unless it is so already."""
        previous = None
        for entry in self.entries():
            key = sort_key(entry["image"])
            if previous is not None and key <= previous:
                break
            previous = key
        else:
            return
        unique = {entry["image"]: entry for entry in self.entries()}
        with atomic_write(self.manifest_path) as file:
            for image in sorted(unique, key=sort_key):
                file.write(_manifest_line(unique[image]))


def _manifest_line(entry: dict) -> str:
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:
        # A file name that is not UTF-8; escaped, so that the manifest is.
        return json.dumps(entry) + "\n"
    return line


class PathSet:
    """A set of paths that keeps 8 bytes of each (a hash; a collision in a million images has a
    probability of 3e-8)."""

    def __init__(self):
        self._hashes: set[int] = set()

    def add(self, path: str) -> None:
        self._hashes.add(self._hash(path))

    def __contains__(self, path: str) -> bool:
        return self._hash(path) in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)

    @staticmethod
    def _hash(path: str) -> int:
        return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")


def sort_key(image: str) -> list[str]:
    """Order of a folder walk, in which "a/b" comes before "a.jpg" only if "a" does."""
    return image.split("/")


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
            "tools/generate_anomaly_maps.py again on the same folders: it makes what is missing."
        ) from error
    except (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(
            f"Anomaly map {str(path)!r} is not a readable .npy file ({error}). Delete it and run "
            "tools/generate_anomaly_maps.py again."
        ) from error
    if stored.ndim != 2 or stored.size == 0 or stored.dtype.kind not in "fiu":
        raise ValueError(
            f"Anomaly map {str(path)!r} has shape {stored.shape} and type {stored.dtype}; expected "
            "numbers (h, w). Delete it and run tools/generate_anomaly_maps.py again."
        )
    anomaly_map = stored.astype(np.float32)
    low, high = anomaly_map.min(), anomaly_map.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"Anomaly map {str(path)!r} has values from {low} to {high}; expected numbers in "
            "[0, 1]. Delete it and run tools/generate_anomaly_maps.py again."
        )
    if sees_nothing(anomaly_map):
        raise ValueError(
            f"Anomaly map {str(path)!r} is constant ({low:.3g}): the scorer saw no difference "
            "between any two cells. Delete it and make it again, or leave its image out."
        )
    return anomaly_map
