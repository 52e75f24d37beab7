"""Writes COCO json files and checks any of them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2_agssp.data.formats.layout import read_json
from detectron2_agssp.data.formats.records import Record

# COCO files round x, y, width and height to two decimals, so that a sum may be off by 0.01.
_ROUNDING = 0.02


def coco_content(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: str,
    image_ids: dict[str, int],
) -> dict:
    """The COCO form of ``records``.

    ``folder`` goes before every file name; ``image_ids`` maps stems to ids, so that an image has
    the same one in every file of a data set. Boxes are XYWH in pixels; the category id of a class
    is its position in ``classes``, from 1.
    """
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    images, annotations = [], []
    for record in records:
        image_id = image_ids[record.stem]
        images.append(
            {
                "id": image_id,
                "file_name": f"{folder}/{record.place}",
                "width": record.width,
                "height": record.height,
            }
        )
        for box in record.boxes:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category_ids[box.category],
                "bbox": list(box.xywh),
                "area": box.area,
                "iscrowd": 0,
            }
            if box.segmentation is not None:
                annotation["segmentation"] = box.segmentation
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def check_coco_json(path: str | Path, image_root: str | Path | None = None) -> list[str]:
    """The problems of a COCO detection file, one sentence each; an empty list if there are none.

    Looks for ids given twice, unknown image or category ids, boxes that are no boxes, have no
    area or leave their image, and, where ``image_root`` is given, images that are not there.

    Raises FileNotFoundError if there is no such file, ValueError if it is not json with the lists
    ``images``, ``annotations`` and ``categories``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no COCO file {str(path)!r}")
    content = read_json(path)
    kinds = ("images", "annotations", "categories")
    for kind in kinds:
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{path} has no list of {kind}, so it is not a COCO detection file")

    problems = []
    for kind in kinds:
        for number, count in Counter(entry.get("id") for entry in content[kind]).items():
            if number is None:
                problems.append(f"{count} of the {kind} have no id.")
            elif count > 1:
                problems.append(f"{count} of the {kind} have the id {number}.")
    images = {image.get("id"): image for image in content["images"]}
    for image in images.values():
        problems += _image_problems(image, image_root)
    categories = {category.get("id") for category in content["categories"]}
    for annotation in content["annotations"]:
        problems += _annotation_problems(annotation, images, categories)
    return problems


def _image_problems(image: dict, image_root: str | Path | None) -> list[str]:
    name = f"Image {image.get('id')}"
    problems = []
    if not _positive(image.get("width")) or not _positive(image.get("height")):
        problems.append(f"{name} has the size {image.get('width')} x {image.get('height')}.")
    file_name = image.get("file_name")
    if not file_name:
        problems.append(f"{name} has no file name.")
    elif image_root is not None and not (Path(image_root) / file_name).is_file():
        problems.append(f"{name}: there is no file {file_name} in {image_root}.")
    return problems


def _annotation_problems(annotation: dict, images: dict, categories: set) -> list[str]:
    name = f"Annotation {annotation.get('id')}"
    problems = []
    if annotation.get("category_id") not in categories:
        problems.append(f"{name} has the unknown category id {annotation.get('category_id')}.")
    image = images.get(annotation.get("image_id"))
    if image is None:
        problems.append(f"{name} has the unknown image id {annotation.get('image_id')}.")
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_finite, bbox)):
        return [*problems, f"{name} has the box {bbox}, not four numbers x, y, width, height."]
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        problems.append(f"{name} has the box {bbox}, which has no area.")
    if image is None or not _positive(image.get("width")) or not _positive(image.get("height")):
        return problems
    right, bottom = image["width"] + _ROUNDING, image["height"] + _ROUNDING
    if min(x, y) < -_ROUNDING or x + width > right or y + height > bottom:
        problems.append(
            f"{name} has the box {bbox}, which leaves image {image.get('id')} of "
            f"{image['width']} x {image['height']}."
        )
    return problems


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _positive(value: object) -> bool:
    return _finite(value) and value > 0
