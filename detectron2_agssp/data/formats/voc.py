"""Pascal VOC: boxes, one xml file per image."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detectron2_agssp.data.formats.orientation import upright_box
from detectron2_agssp.data.formats.pairing import Pair, Source, require_pairs
from detectron2_agssp.data.formats.records import (
    Box,
    Labels,
    box_inside,
    orientation_of,
    read_records,
)
from detectron2_agssp.io.files import atomic_write, read_xml, safe_join, user_path

EXPECTED = "images (*.jpg) and Pascal VOC files of the same names (*.xml) in or below it"


def read_voc(
    source: Source, classes: Collection[str] | None = None, *, one_based: bool | None = None
) -> Labels:
    """Reads every image that has an annotation, sorted by name.

    Images and xml files are looked for in all of ``source`` and paired by name, so that any folders
    do. Boxes marked difficult are boxes like any other, as in Detectron2's VOC loader; boxes of
    other classes than ``classes`` are left out, and so is an image of another size than its xml
    gives: it was resized or cropped since. Where that is its size before EXIF turned it upright,
    the boxes are turned along.

    Args:
        source: the folders.
        classes: in the order of their ids; by default all that there are, sorted.
        one_based: corners are numbers of pixels, counted from 1, the last one included, as VOC
            defines it; else they are edges, counted from 0, as several tools write them. By
            default the latter if any corner in the set is 0.

    Raises:
        FileNotFoundError: no images, or no xml files.
        ValueError: no image belongs to any xml file.
    """
    images, annotations = source.images(), source.files((".xml",))
    pairs = source.pairs(images, annotations)
    require_pairs(pairs, images, annotations, source.root, EXPECTED)
    roots: dict[str, ElementTree.Element | str] = {}
    for pair in pairs:
        try:
            roots[pair.name] = read_xml(pair.labels[0])
        except (OSError, ValueError) as error:
            roots[pair.name] = str(error)
    trees = [root for root in roots.values() if not isinstance(root, str)]
    nodes = [node for tree in trees for node in tree.iter("object")]
    if one_based is None:
        one_based = not any(0 in _corners(node)[:2] for node in nodes)
        if not one_based:
            source.report.notes.append("corners of boxes are edges, counted from 0: some are 0")
    if classes is None:
        classes = sorted({_text(node, "name") for node in nodes} - {""})

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        root = roots[pair.name]
        if isinstance(root, str):
            raise ValueError(root)
        return _boxes(root, pair, (width, height), classes, one_based, source)

    return Labels(read_records(pairs, boxes_of, source), list(classes))


def write_voc(coco: Mapping[str, Any], folder: str | Path) -> None:
    """Writes the boxes of a COCO dict as one xml file per image, which :func:`read_voc` reads with
    ``one_based=True``: corners are rounded to pixels, counted from 1, the last one included.

    Args:
        coco: its images have sizes.
        folder: to write; an image's file has its name with the suffix .xml.
    """
    names = {category["id"]: category["name"] for category in coco["categories"]}
    boxes = defaultdict(list)
    for entry in coco["annotations"]:
        boxes[entry["image_id"]].append(entry)
    for image in coco["images"]:
        size = width, height = image["width"], image["height"]
        root = ElementTree.Element("annotation")
        _add(root, "filename", Path(image["file_name"]).name)
        node = ElementTree.SubElement(root, "size")
        for name, value in (("width", width), ("height", height), ("depth", 3)):
            _add(node, name, value)
        for entry in boxes[image["id"]]:
            node = ElementTree.SubElement(root, "object")
            _add(node, "name", names[entry["category_id"]])
            _add(node, "difficult", int(entry.get("iscrowd", 0)))
            box = ElementTree.SubElement(node, "bndbox")
            x, y, w, h = entry["bbox"]
            for axis, start, length, side in zip("xy", (x, y), (w, h), size, strict=True):
                first = min(max(round(start), 0), side - 1)
                _add(box, f"{axis}min", first + 1)
                _add(box, f"{axis}max", min(max(round(start + length), first + 1), side))
        ElementTree.indent(root)
        path = safe_join(user_path(folder), image["file_name"]).with_suffix(".xml")
        with atomic_write(path) as file:
            file.write(ElementTree.tostring(root, encoding="unicode") + "\n")


def _add(node: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(node, name).text = str(value)


def _boxes(
    root: ElementTree.Element,
    pair: Pair,
    size: tuple[int, int],
    classes: Collection[str],
    one_based: bool,
    source: Source,
) -> tuple[Box, ...]:
    report, stem = source.report, pair.name
    declared = [_text(root, f"size/{side}") for side in ("width", "height")]
    turn = orientation_of(pair, "xml", declared, size, report)
    # Only the stems are compared: 170 of the authors' files leave out the ".jpg".
    filename = _text(root, "filename").replace("\\", "/")
    if filename and Path(filename).stem != Path(stem).name:
        report.add("filename_differs", f"{stem} (xml {filename!r})")
    boxes = []
    for number, node in enumerate(root.iter("object")):
        where = f"{stem} object {number}"
        name = _text(node, "name")
        if name not in classes:
            report.add("unknown_class", f"{where} ({name!r})")
            continue
        left, top, right, bottom = _corners(node)
        # Counted from 1, last pixel included, NEU-DET's corners run from 1 (1474 times; never 0) to
        # 200 (561 times) in 200 pixels. By edges, the box begins one lower and ends there.
        corners = upright_box((left - one_based, top - one_based, right, bottom), turn, *size)
        if box := box_inside(name, corners, size, where, report):
            boxes.append(box)
    if not boxes:
        report.add("defect_without_box", stem)
    return tuple(boxes)


def _corners(node: ElementTree.Element) -> tuple[float, ...]:
    try:
        return tuple(
            float(_text(node, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        return (math.nan,) * 4


def _text(node: ElementTree.Element, path: str) -> str:
    return (node.findtext(path) or "").strip()
