"""What is known of images without keeping them: size, brightness, digest and fingerprint, each
image read once, whatever is killed in between."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from detectron2_agssp.data.fingerprints import SIZE, VIEWS, fingerprint
from detectron2_agssp.io.files import escaped_name, read_json, write_json
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.image_stream import chunks, file_state, is_same_file
from detectron2_agssp.maps.manifest import append_lines, read_lines, truncate_unfinished_line
from detectron2_agssp.utils.lanes import in_lanes

_ROW_BYTES = VIEWS * SIZE * 2  # float16
_BATCH = 64  # images between two writes
_LANES = 4


class Scan:
    """Facts and fingerprints of images, in two files that grow, ``scan.jsonl`` and ``scan.bin``.

    ``scan.jsonl`` has an object an image: ``image`` (its path), the state of its file, and either
    ``reason``, why it cannot be used, or ``row`` (of its fingerprint), ``height``, ``width`` and
    ``brightness`` (mean grey, [0, 255]). ``scan.bin`` has the fingerprints, ``scan.json`` the
    reader's settings: others make all anew. An image that has been read and not changed since is
    not read again.

    Args:
        folder: of the files.
        reader: how images are read.
    """

    FILES = ("scan.jsonl", "scan.bin", "scan.json")

    def __init__(self, folder: str | Path, reader: ImageReader):
        self.lines_path, self.rows_path, settings = (Path(folder) / name for name in self.FILES)
        self.reader = reader
        read_by = vars(reader)
        if not settings.exists() or read_json(settings) != read_by:
            self.lines_path.unlink(missing_ok=True)
            self.rows_path.unlink(missing_ok=True)
            write_json(settings, read_by)
        self.rows_path.touch()
        rows = os.path.getsize(self.rows_path) // _ROW_BYTES
        os.truncate(self.rows_path, rows * _ROW_BYTES)
        self.num_rows = rows
        self.known: dict[str, dict] = {}
        if self.lines_path.exists():
            truncate_unfinished_line(self.lines_path)
            for _, entry in read_lines(self.lines_path, any_name=True):
                # What a full disk or a crash lost is made again; so is what could not be read, as
                # a disk that is back or other rights do not change the file.
                if entry.get("row", rows) < rows:
                    self.known[entry["image"]] = entry

    def read(self, paths: Sequence[str], *, what: str, progress: bool) -> None:
        """Makes the images known; ``what`` is said beside the bar."""
        unknown = [path for path in paths if not self._is_known(path)]
        lanes = min(_LANES, torch.get_num_threads())
        bar = tqdm(
            total=len(paths),
            initial=len(paths) - len(unknown),
            desc=what,
            unit="img",
            disable=not progress,
        )
        with bar:
            parts = chunks(unknown, _BATCH)
            for entries in in_lanes(functools.partial(list_facts, self.reader), parts, lanes):
                self._append(entries)
                bar.update(len(entries))

    def _is_known(self, path: str) -> bool:
        entry = self.known.get(escaped_name(path))
        return entry is not None and is_same_file(path, entry)

    def _append(self, entries: list[tuple[dict, np.ndarray | None]]) -> None:
        lines = []
        with open(self.rows_path, "ab") as file:
            for entry, views in entries:
                if views is not None:
                    file.write(views.tobytes())
                    entry = {**entry, "row": self.num_rows}
                    self.num_rows += 1
                lines.append(entry)
                self.known[entry["image"]] = entry
        # Last: a line never names a row that is not there.
        append_lines(self.lines_path, lines)

    def __getitem__(self, path: str) -> dict:
        return self.known[escaped_name(path)]

    def fingerprints(self, rows: Sequence[int]) -> np.ndarray:
        """(N, 4, 64) float16 of these rows."""
        if not self.num_rows:
            return np.empty((0, VIEWS, SIZE), np.float16)
        shape = (self.num_rows, VIEWS, SIZE)
        stored = np.memmap(self.rows_path, np.float16, mode="r", shape=shape)
        return np.asarray(stored[list(rows)])

    def usable(self, paths: Sequence[str]) -> Iterator[list[str]]:
        """The images that could be read, some at a time."""
        return chunks((path for path in paths if "row" in self[path]), 4 * _BATCH)


def list_facts(reader: ImageReader, paths: Sequence[str]) -> list[tuple[dict, np.ndarray | None]]:
    """Of each image its line of ``scan.jsonl``, and its fingerprint or None."""
    return [_facts(reader, path) for path in paths]


def _facts(reader: ImageReader, path: str) -> tuple[dict, np.ndarray | None]:
    if (name := escaped_name(path)) != path:
        return {"image": name, "reason": "its name is not UTF-8: rename it"}, None
    state: dict = {}
    try:
        state = file_state(path)
        image = reader(path)
    except (ValueError, OSError) as error:
        return {"image": path, "reason": f"{type(error).__name__}: {error}", **state}, None
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    facts = {"height": height, "width": width, "brightness": round(float(grey.mean()), 1)}
    return {"image": path, **facts, **state}, fingerprint(grey)
