"""Magnetic-Tile: one pixel mask per image, the class in the name of the folder."""

from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
from tqdm import tqdm

from detectron2_agssp.data.formats.classes import MAGNETIC_TILE_CLASSES
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
from detectron2_agssp.io.masks import MaskValueError, read_mask

DEFECT_FREE = "Free"
EXPECTED = "MT_<class>/Imgs/ with images (*.jpg) and masks of the same names (*.png)"

# The masks were painted by hand and carry crumbs: beside or instead of a defect there are
# components of 1 to 9 pixels (20 in all 462), often on the rim of a large one. The smallest real
# defect, a blowhole, has 26. Any value between keeps every defect and no crumb.
MIN_AREA = 16

# Edges are soft (anti-aliased), in 388 of the 392 masks of defects.
THRESHOLD = 127


def read_magnetic_tile(
    source: str | Path, report: Report, min_area: int = MIN_AREA
) -> list[Record]:
    """Reads every defect image that has a mask and every defect-free image, sorted by name.

    A box is an 8-connected component of the mask with at least ``min_area`` pixels.

    Raises FileNotFoundError if ``source`` or its contents are missing, ValueError if no image
    belongs to any mask. Everything else that is wrong goes to ``report``.
    """
    source = checked_source(source)
    images = _index(source, (".jpg", ".jpeg", ".bmp"), report)
    masks = _index(source, (".png",), report)
    for folder in sorted({_folder(stem) for stem in images} - _known_folders()):
        report.add("unknown_class", folder)
        images = {stem: path for stem, path in images.items() if _folder(stem) != folder}
        masks = {stem: path for stem, path in masks.items() if _folder(stem) != folder}
    defect_free = {stem for stem in images if _class(stem) == DEFECT_FREE}
    stems = paired_stems(images, masks, EXPECTED, report, unannotated=defect_free)
    records = (
        _read_record(stem, images[stem], masks.get(stem), min_area, report)
        for stem in tqdm(stems, desc="reading", disable=None)
    )
    return [record for record in records if record is not None]


def _index(source: Path, suffixes: tuple[str, ...], report: Report) -> dict[str, Path]:
    """Stems are paths below ``source`` without the suffix: names repeat from class to class."""
    paths = visible_files(source, "MT_*/Imgs/*", suffixes)
    stems = (path.relative_to(source).with_suffix("").as_posix() for path in paths)
    return index_by_stem(zip(stems, paths, strict=True), report)


def _folder(stem: str) -> str:
    return stem.split("/")[0]


def _class(stem: str) -> str:
    return _folder(stem).removeprefix("MT_")


def _known_folders() -> set[str]:
    return {f"MT_{name}" for name in (*MAGNETIC_TILE_CLASSES, DEFECT_FREE)}


def _read_record(
    stem: str, image: Path, mask_path: Path | None, min_area: int, report: Report
) -> Record | None:
    inspected = inspect_image(image, stem, report)
    if inspected is None:
        return None
    width, height, digest = inspected
    place = f"{_folder(stem)}/{image.name}"
    if mask_path is None:
        return Record(stem, place, image, width, height, digest, ())
    try:
        mask = read_mask(mask_path, THRESHOLD).astype(np.uint8)
    except MaskValueError as error:
        report.add("mask_values", f"{stem} ({error})")
        return None
    except (OSError, ValueError) as error:
        report.add("unreadable_annotation", f"{stem} ({error})")
        return None
    if mask.shape != (height, width):
        shape = f"mask {mask.shape[1]}x{mask.shape[0]}, image {width}x{height}"
        report.add("mask_size_differs", f"{stem} ({shape})")
        return None
    if _class(stem) == DEFECT_FREE:
        if mask.any():
            report.add("mask_on_defect_free", stem)
        return Record(stem, place, image, width, height, digest, ())
    boxes = _component_boxes(mask, stem, min_area, report)
    if not boxes:
        report.add("defect_without_box", stem)
    return Record(stem, place, image, width, height, digest, boxes, mask_path)


def _component_boxes(mask: np.ndarray, stem: str, min_area: int, report: Report) -> tuple[Box, ...]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = []
    for label in range(1, count):  # 0 is the background
        *xywh, area = (int(value) for value in stats[label])
        if area < min_area:
            report.add("small_component", f"{stem} ({area} px at {xywh[0]},{xywh[1]})")
            continue
        rle = pycocotools.mask.encode(np.asfortranarray(labels == label, dtype=np.uint8))
        segmentation = {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}
        boxes.append(Box(_class(stem), tuple(map(float, xywh)), float(area), segmentation))
    return tuple(boxes)
