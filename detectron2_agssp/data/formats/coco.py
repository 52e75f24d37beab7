"""COCO json: one file, or several with the same classes or not, of images below a folder."""

import math
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import pycocotools.mask

from detectron2_agssp.data.formats.orientation import upright_box, upright_points
from detectron2_agssp.data.formats.pairing import Pair, Source
from detectron2_agssp.data.formats.records import (
    Box,
    Labels,
    box_inside,
    orientation_of,
    polygon_corners,
    read_records,
)
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.coco import KINDS, read_coco
from detectron2_agssp.io.files import read_json
from detectron2_agssp.utils.naming import some_of

EXPECTED = (
    "a COCO json (*.json with images, annotations and categories) in or above its images; where "
    "these are elsewhere, name their folder (--images)"
)


def read_coco_labels(source: Source, classes: Collection[str] | None = None) -> Labels:
    """Reads the images that the COCO files below ``source`` name, sorted by name; boxes of the same
    class name are of one class, whatever their ids.

    Args:
        source: the folders.
        classes: in the order of their ids; by default those of the files, in the order there.

    Raises:
        FileNotFoundError: no COCO file, or no images.
        ValueError: a file is damaged or has an id twice, or none of its images is there.
    """
    report, images = source.report, source.images()
    files = [path for path in source.files((".json",)) if _is_coco(source, path)]
    if not files or not images:
        unreadable = some_of(report.problems["unreadable_annotation"], 3)
        raise FileNotFoundError(
            f"{source.root} holds {len(files)} COCO files and {len(images)} images"
            f"{unreadable and f'; not to be read: {unreadable}'}; expected {EXPECTED}"
        )
    names: dict[str, None] = dict.fromkeys(classes or ())
    declared: dict[str, tuple] = {}
    entries: dict[str, list[tuple[str, dict]]] = defaultdict(list)
    for path in files:
        coco = read_coco(source.root / path)
        found = source.resolve(sorted({image["file_name"] for image in coco["images"]}), images)
        by_id = {}
        for image in coco["images"]:
            name = image["file_name"]
            if name not in found:
                report.add("annotation_without_image", f"{name} ({path})")
                continue
            by_id[image["id"]] = found[name]
            entries[found[name]] += []
            declared[found[name]] = (image.get("width"), image.get("height"))
        categories = {}
        for entry in sorted(coco["categories"], key=lambda entry: str(entry["id"]).zfill(9)):
            other = categories.get(entry["id"], entry["name"])
            if other != entry["name"]:
                raise ValueError(
                    f"{source.root / path}: the id {entry['id']} is that of the classes {other!r} "
                    f"and {entry['name']!r}. Give one of them another id, and its boxes too."
                )
            if entry["name"] in categories.values():
                report.add("class_twice", f"{entry['name']} ({path})")
            categories[entry["id"]] = entry["name"]
            if classes is None:
                names[entry["name"]] = None
        known = {image["id"] for image in coco["images"]}
        for entry in coco["annotations"]:
            where = f"annotation {entry.get('id')} ({path})"
            category = categories.get(entry["category_id"])
            if category not in names:
                report.add("unknown_class", f"{where} ({category or entry['category_id']})")
            elif entry["image_id"] in by_id:
                entries[by_id[entry["image_id"]]].append((category, {**entry, "where": where}))
            elif entry["image_id"] not in known:
                report.add("box_dropped", f"{where} (no image {entry['image_id']})")
    if not entries:
        raise ValueError(f"none of the images of {', '.join(files)} is in {source.image_root}")
    for image in sorted(set(images) - entries.keys()):
        report.add("image_without_annotation", image)

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        size = (width, height)
        turn = orientation_of(pair, "json", declared[pair.file_name], size, report)
        boxes = (_box(name, entry, size, turn, report) for name, entry in entries[pair.file_name])
        return tuple(box for box in boxes if box is not None)

    pairs = source.named(list(entries)).values()
    return Labels(read_records(pairs, boxes_of, source), list(names))


def _is_coco(source: Source, path: str) -> bool:
    try:
        content = read_json(source.root / path)
    except (OSError, ValueError) as error:
        source.report.add("unreadable_annotation", f"{path} ({error})")
        return False
    return isinstance(content, dict) and all(kind in content for kind in KINDS)


def _box(
    category: str, entry: dict, size: tuple[int, int], turn: int, report: Report
) -> Box | None:
    where = entry["where"]
    segmentation: Any = entry.get("segmentation") or None
    if segmentation is not None and not _is_segmentation(segmentation, size):
        report.add("segmentation_dropped", where)
        segmentation = None
    corners: tuple[float, ...] = (math.nan,) * 4
    if "bbox" in entry:
        x, y, width, height = entry["bbox"]
        corners = (x, y, x + width, y + height)
    elif isinstance(segmentation, list):
        corners = polygon_corners(segmentation)
    elif segmentation is not None:
        x, y, width, height = pycocotools.mask.toBbox(_compressed(segmentation)).tolist()
        corners = (x, y, x + width, y + height)
    corners = upright_box(corners, turn, *size)
    if isinstance(segmentation, list):
        segmentation = [upright_points(polygon, turn, *size) for polygon in segmentation]
    more = {"segmentation": segmentation, "iscrowd": int(bool(entry.get("iscrowd")))}
    if isinstance(entry.get("area"), int | float) and entry["area"] > 0:
        more["area"] = entry["area"]
    return box_inside(category, corners, size, where, report, **more)


def _is_segmentation(value: Any, size: tuple[int, int]) -> bool:
    """Polygons of three corners or more, or run lengths of the image's size."""
    if isinstance(value, dict):
        try:
            return tuple(value["size"]) == size[::-1] and bool(_compressed(value))
        except (KeyError, TypeError, ValueError):
            return False
    return isinstance(value, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(number, int | float) and np.isfinite(number) for number in polygon)
        for polygon in value
    )


def _compressed(segmentation: dict) -> dict:
    if isinstance(segmentation["counts"], list):
        return pycocotools.mask.frPyObjects(segmentation, *segmentation["size"])
    return segmentation
