"""What a pretraining was begun with: other images or settings are noticed, and named."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.io.files import write_json
from detectron2_agssp.io.images import (
    IMAGE_SUFFIXES,
    UnreadableImageError,
    list_images,
    read_header,
)
from detectron2_agssp.maps.image_stream import file_state
from detectron2_agssp.maps.manifest import read_lines
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.utils.differences import differences
from detectron2_agssp.utils.naming import some_of

RECORD = "pretrain.json"
SIZED_IMAGES = 20


def files_of(images: str | Path) -> dict[str, list[int]]:
    """Image -> bytes and time of its last change, ns; zeros where it is in no file of its own here.

    Args:
        images: a folder, a URL of one, or archives (``tar://...``).

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no image.
    """
    names = list(list_images(images))
    if not names:
        raise ValueError(
            f"{images} holds no images, nor do its folders. Files are taken for images by their "
            f"suffix: {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return {name: _size_and_time(os.path.join(images, name)) for name in names}


def _size_and_time(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        # A URL; or a link to nowhere: skipped, and named, when maps are made.
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def checked_record(output: Path, settings: dict, files: dict[str, list[int]]) -> dict[str, Any]:
    """The record of an earlier run, compared, or a new one.

    Raises:
        ValueError: other images or settings, or a folder that is no run's.
    """
    path, names = output / RECORD, output / "images.json"
    settings = json.loads(json.dumps(settings, default=list))
    anew = "Name another output folder, or delete this one to start anew."
    if not path.exists():
        others = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith("."))
        if set(others) - {names.name}:
            raise ValueError(
                f"{output} holds files of something else ({some_of(others)}). Name a folder that "
                "is empty or not there yet."
            )
        record = {
            "settings": settings,
            "count": len(files),
            "image_size": _typical_size(settings["images"], list(files)),
        }
        root = settings["images"]
        digests = {name: [*stat, _digest(root, name)] for name, stat in files.items()}
        write_json(names, digests)
        write_json(path, record)
        return record
    try:
        record, earlier = json.loads(path.read_text()), json.loads(names.read_text())
        changed = [
            f"{key} was {old!r}, is {new!r}"
            for key, old, new in differences(record["settings"], settings)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} or {names.name} is damaged ({error}). {anew}") from error
    if changed:
        raise ValueError(f"{output} was made with other settings: {'; '.join(changed)}. {anew}")
    groups = {
        "added": sorted(files.keys() - earlier.keys()),
        "gone": sorted(earlier.keys() - files.keys()),
        "changed": sorted(_changed(settings["images"], files, earlier)),
    }
    said = [f"{len(some)} {how} ({some_of(some)})" for how, some in groups.items() if some]
    if said:
        raise ValueError(
            f"{output} was made of other images. Since then of {settings['images']}: "
            f"{', '.join(said)}. {anew}"
        )
    return record


def _changed(images: str, files: dict[str, list[int]], earlier: dict[str, list]) -> Iterator[str]:
    """Images of another size or, where only the time differs, as of a copy, of other content."""
    for name in files.keys() & earlier.keys():
        *stat, digest = earlier[name]
        same_size = files[name][0] == stat[0]
        if files[name] != stat and not (same_size and _digest(images, name) == digest):
            yield name


def _digest(images: str, name: str) -> str:
    # An image that cannot be read is skipped, and named, when maps are made.
    with contextlib.suppress(OSError):
        return file_state(os.path.join(images, name)).get("digest", "")
    return ""


def _typical_size(images: str, names: list[str]) -> list[int]:
    """Median height and width, of some images, that can be read."""
    sizes = []
    for name in names[:: max(1, len(names) // SIZED_IMAGES)]:
        # What cannot be read is skipped, and named, when maps are made.
        with contextlib.suppress(UnreadableImageError, OSError):
            sizes.append(read_header(os.path.join(images, name))[:2])
    return np.median(sizes or [(512, 512)], axis=0).astype(int).tolist()


def skipped_images(map_root: Path) -> list[str]:
    """Images that a map folder's last run could not use."""
    path = MapStore(map_root).skipped_path
    lines = read_lines(path, any_name=True) if path.exists() else ()
    return [line["image"] for _, line in lines]
