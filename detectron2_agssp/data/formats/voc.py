"""Pascal VOC: boxes, one xml file per image."""

import math
from collections.abc import Collection
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from detectron2_agssp.data.formats.orientation import upright_box
from detectron2_agssp.data.formats.records import (
    Box,
    Record,
    checked_source,
    index_by_stem,
    inspect_image,
    paired_stems,
    visible_files,
)
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.files import read_xml
from detectron2_agssp.io.images import ImageReader, read_header

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
EXPECTED = "images (*.jpg) and Pascal VOC files of the same names (*.xml) in or below it"


def read_voc(
    source: str | Path, classes: Collection[str], report: Report, reader: ImageReader
) -> list[Record]:
    """Reads every image that has an annotation, sorted by name.

    Images and xml files are looked for in all of ``source`` and paired by name, so that any folders
    do. Boxes marked difficult are boxes like any other, as in Detectron2's VOC loader; boxes of
    other classes than ``classes`` are left out, and so is an image of another size than its xml
    gives: it was resized or cropped since. Where that is its size before EXIF turned it upright,
    the boxes are turned along.

    Raises FileNotFoundError if ``source`` or its contents are missing, ValueError if no image
    belongs to any xml file. Everything else that is wrong goes to ``report``.
    """
    source = checked_source(source)
    images = index_by_stem(
        ((path.stem, path) for path in visible_files(source, "**/*", IMAGE_SUFFIXES)), report
    )
    annotations = index_by_stem(
        ((path.stem, path) for path in visible_files(source, "**/*", (".xml",))), report
    )
    stems = paired_stems(images, annotations, EXPECTED, report)
    records = (
        _read_record(stem, images[stem], annotations[stem], classes, report, reader)
        for stem in tqdm(stems, desc="reading", disable=None)
    )
    return [record for record in records if record is not None]


def _read_record(
    stem: str,
    image: Path,
    annotation: Path,
    classes: Collection[str],
    report: Report,
    reader: ImageReader,
) -> Record | None:
    inspected = inspect_image(image, stem, report, reader)
    if inspected is None:
        return None
    width, height, digest = inspected
    try:
        root = read_xml(annotation)
    except (OSError, ValueError) as error:
        report.add("unreadable_annotation", f"{stem} ({error})")
        return None

    declared = f"{_text(root, 'size/width')}x{_text(root, 'size/height')}"
    orientation = 1
    if declared != f"{width}x{height}":
        if declared == f"{height}x{width}":
            *_, orientation = read_header(image)
        known = "size_missing" if declared in ("x", "0x0") else "size_differs"
        kind = "boxes_turned" if orientation > 4 else known
        report.add(kind, f"{stem} (xml {declared}, image {width}x{height})")
        if kind == "size_differs":
            return None
    # Only the stems are compared: 170 of the authors' files leave out the ".jpg".
    if Path(_text(root, "filename")).stem != stem:
        report.add("filename_differs", f"{stem} (xml {_text(root, 'filename')!r})")

    boxes = (
        _read_box(node, f"{stem} object {number}", width, height, orientation, classes, report)
        for number, node in enumerate(root.iter("object"))
    )
    boxes = tuple(box for box in boxes if box is not None)
    if not boxes:
        report.add("defect_without_box", stem)
    return Record(stem, image.name, image, width, height, digest, boxes)


def _read_box(
    node: ElementTree.Element,
    where: str,
    width: int,
    height: int,
    orientation: int,
    classes: Collection[str],
    report: Report,
) -> Box | None:
    name = _text(node, "name")
    if name not in classes:
        report.add("unknown_class", f"{where} ({name!r})")
        return None
    texts = [_text(node, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = map(float, texts)
    except ValueError:
        xmin = ymin = xmax = ymax = math.nan
    # VOC counts pixels from 1 and includes the last one. NEU-DET does so too: in 200 pixel wide
    # images its corners run from 1 (1474 times; never 0) to 200 (561 times). Counted by pixel
    # edges from 0, the box thus begins one lower and ends at the same number.
    given = upright_box((xmin - 1, ymin - 1, xmax, ymax), orientation, width, height)
    left, top = max(given[0], 0.0), max(given[1], 0.0)
    right, bottom = min(given[2], float(width)), min(given[3], float(height))
    # Written so that a NaN, too, ends here.
    if not (right > left and bottom > top):
        report.add("box_dropped", f"{where} ({' '.join(texts)})")
        return None
    if (left, top, right, bottom) != given:
        report.add("box_clipped", f"{where} ({' '.join(texts)})")
    size = (right - left, bottom - top)
    return Box(name, (left, top, *size), size[0] * size[1])


def _text(node: ElementTree.Element, path: str) -> str:
    return (node.findtext(path) or "").strip()
