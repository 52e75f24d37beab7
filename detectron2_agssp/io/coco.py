"""COCO detection files: read, checked, written, cut into subsets, and registered."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from detectron2_agssp.io.files import atomic_write, read_json

KINDS = ("images", "annotations", "categories")
# No camera's: what a record says of its image's size is believed up to here.
MAX_RECORD_PIXELS = 10**9
# COCO files round x, y, width and height to two decimals, so that a sum may be off by 0.01.
_ROUNDING = 0.02


# ---- reading


def read_coco(path: str | Path) -> dict:
    """A COCO file as a dict of its ``images``, ``annotations`` and ``categories``.

    Every record is known to have what it needs: ids, file names, names of categories, and, where
    they are given, sizes and boxes (XYWH, absolute pixels) that are numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not COCO; the message names the file, the record and the value.
    """
    content = _read_tables(path)
    for kind, check in (
        ("images", _image_fault),
        ("annotations", _annotation_fault),
        ("categories", _category_fault),
    ):
        for number, record in enumerate(content[kind]):
            if fault := check(record):
                raise ValueError(f"{path} is not a COCO json: {kind}[{number}] {fault}.")
    return content


def _read_tables(path: str | Path) -> dict:
    """The three lists of a COCO file, each of dicts."""
    content = read_json(path)
    for kind in KINDS:
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f"{path} is not a COCO json: it has no list of {kind}. A COCO detection file has "
                f"the lists {', '.join(KINDS)}."
            )
    return {kind: content[kind] for kind in KINDS}


def _image_fault(image: dict) -> str:
    if not _is_id(image.get("id")):
        return f"has the id {image.get('id')!r}"
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        return f"has the file_name {image.get('file_name')!r}"
    sides = [image[side] for side in ("height", "width") if side in image]
    if not all(map(_is_positive, sides)) or math.prod(sides) > MAX_RECORD_PIXELS:
        return f"has the size {image.get('width')!r} x {image.get('height')!r} (width x height)"
    return ""


def _annotation_fault(annotation: dict) -> str:
    for key in ("image_id", "category_id"):
        if not _is_id(annotation.get(key)):
            return f"has the {key} {annotation.get(key)!r}"
    if "bbox" in annotation and not _is_box(annotation["bbox"]):
        return f"has the bbox {annotation['bbox']!r}, not four numbers x, y, width, height"
    if "bbox" not in annotation and not annotation.get("segmentation"):
        return "has neither bbox nor segmentation"
    return ""


def _category_fault(category: dict) -> str:
    if not _is_id(category.get("id")):
        return f"has the id {category.get('id')!r}"
    return "" if isinstance(category.get("name"), str) else f"has the name {category.get('name')!r}"


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_box(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def class_names(path: str | Path) -> list[str] | None:
    """The classes of a COCO file in the order that Detectron2 gives them; None where there is no
    file, or none that can be read: loading it says what is wrong."""
    try:
        categories = read_json(path)["categories"]
        return [entry["name"] for entry in sorted(categories, key=lambda entry: entry["id"])]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- checking


def check_coco_json(path: str | Path, image_root: str | Path | None = None) -> list[str]:
    """The problems of a COCO detection file, one sentence each; an empty list if there are none.

    Looks for ids given twice, unknown image or category ids, boxes that are no boxes, have no
    area or leave their image, and, where ``image_root`` is given, images that are not there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not json with the lists ``images``, ``annotations`` and ``categories``.
    """
    return coco_problems(_read_tables(path), image_root)


def coco_problems(content: dict, image_root: str | Path | None = None) -> list[str]:
    """:func:`check_coco_json` of a COCO dict."""
    problems = []
    for kind in KINDS:
        ids = (entry.get("id") for entry in content[kind])
        for number, count in Counter(id_ if _is_id(id_) else None for id_ in ids).items():
            if number is None:
                problems.append(f"{count} of the {kind} have no id.")
            elif count > 1:
                problems.append(f"{count} of the {kind} have the id {number}.")
    images = {image["id"]: image for image in content["images"] if _is_id(image.get("id"))}
    for image in images.values():
        problems += _image_problems(image, image_root)
    ids = (category.get("id") for category in content["categories"])
    categories = {id_ for id_ in ids if _is_id(id_)}
    for annotation in content["annotations"]:
        problems += _annotation_problems(annotation, images, categories)
    return problems


def _image_problems(image: dict, image_root: str | Path | None) -> list[str]:
    name = f"Image {image['id']}"
    problems = []
    if not _is_positive(image.get("width")) or not _is_positive(image.get("height")):
        problems.append(f"{name} has the size {image.get('width')} x {image.get('height')}.")
    file_name = image.get("file_name")
    if not file_name or not isinstance(file_name, str):
        problems.append(f"{name} has no file name.")
    elif image_root is not None and not (Path(image_root) / file_name).is_file():
        problems.append(f"{name}: there is no file {file_name} in {image_root}.")
    return problems


def _annotation_problems(annotation: dict, images: dict, categories: set) -> list[str]:
    name = f"Annotation {annotation.get('id')}"
    problems = []
    for key, known in (("category", categories), ("image", images)):
        id_ = annotation.get(f"{key}_id")
        if not _is_id(id_) or id_ not in known:
            problems.append(f"{name} has the unknown {key} id {id_}.")
    bbox = annotation.get("bbox")
    if not _is_box(bbox):
        return [*problems, f"{name} has the box {bbox}, not four numbers x, y, width, height."]
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        problems.append(f"{name} has the box {bbox}, which has no area.")
    id_ = annotation.get("image_id")
    image = images.get(id_, {}) if _is_id(id_) else {}
    if not _is_positive(image.get("width")) or not _is_positive(image.get("height")):
        return problems
    right, bottom = image["width"] + _ROUNDING, image["height"] + _ROUNDING
    if min(x, y) < -_ROUNDING or x + width > right or y + height > bottom:
        problems.append(
            f"{name} has the box {bbox}, which leaves image {image['id']} of "
            f"{image['width']} x {image['height']}."
        )
    return problems


def check_same_categories(contents: Mapping[str, dict]) -> None:
    """Refuses COCO dicts whose classes differ: a class is the position of its id, so that a model
    trained on one would be tested on another's classes.

    Args:
        contents: name of each (in messages) -> COCO dict.

    Raises:
        ValueError: two of them differ in an id or a name.
    """
    tables = {
        name: {entry["id"]: entry["name"] for entry in coco["categories"]}
        for name, coco in contents.items()
    }
    if not tables:
        return
    first, expected = next(iter(tables.items()))
    for name, table in tables.items():
        if table != expected:
            raise ValueError(
                f"{name} has the categories {table}, but {first} {expected} (id: name). They must "
                "be the same in every split: a class is the position of its id."
            )


# ---- writing


def coco_image(image_id: int, file_name: str, *, height: int, width: int) -> dict:
    """COCO's record of an image, its size in pixels."""
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def coco_annotation(
    annotation_id: int, image_id: int, category_id: int, bbox: Sequence[float], **more: Any
) -> dict:
    """COCO's record of a box (XYWH, absolute pixels); ``more`` adds keys, or replaces ``area``
    (that of the box) and ``iscrowd`` (0)."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
        **more,
    }


def coco_categories(names: Sequence[str]) -> list[dict]:
    """COCO's records of classes; the id of each is its position, from 1."""
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def to_xyxy(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(K, 4) float64 XYXY of annotations or results."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def write_coco(path: str | Path, content: dict) -> None:
    """Writes a COCO dict, atomically; the same dict always gives the same bytes.

    Raises:
        ValueError: it holds a NaN or an infinity, which json does not have.
    """
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def subset(coco: dict, ids: set) -> dict:
    """The images of those ids, their annotations, and all else."""
    images = [image for image in coco["images"] if image["id"] in ids]
    annotations = [entry for entry in coco["annotations"] if entry["image_id"] in ids]
    return {**coco, "images": images, "annotations": annotations}


# ---- Detectron2's catalogs


def register_coco(name: str, path: str | Path, image_root: str | Path) -> None:
    """Registers a COCO file with Detectron2; registering a name again replaces it."""
    forget_dataset(name)
    register_coco_instances(name, {}, str(path), str(image_root))


def forget_dataset(name: str) -> None:
    """Takes a data set out of Detectron2's catalogs, if it is there."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
