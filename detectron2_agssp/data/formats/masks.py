"""Pixel masks: one per image, the class told by its path."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
from tqdm import tqdm

from detectron2_agssp.data.formats.records import Box, Record, inspect_image, paired_stems
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.io.masks import MaskValueError, read_mask


def read_masks(
    images: dict[str, Path],
    masks: dict[str, Path],
    class_of: Callable[[str], str],
    report: Report,
    reader: ImageReader,
    *,
    expected: str,
    place_of: Callable[[str, Path], str],
    threshold: int = 127,
    min_area: int = 1,
) -> list[Record]:
    """Reads every image of a defect that has a mask and every defect-free image, sorted by name.

    A box is an 8-connected component of the mask with at least ``min_area`` pixels.

    Args:
        images, masks: stem -> path; an image and its mask have the same stem.
        class_of: stem -> class of its defects; "" for an image without, which needs no mask.
        report: everything that is wrong with a single file goes there.
        reader: how images are read.
        expected: the layout of the source, for errors.
        place_of: stem and image -> its path below ``images/<split>``.
        threshold: mask values above it are defect.
        min_area: pixels of a component.

    Raises:
        FileNotFoundError: there are no images or no masks.
        ValueError: no image belongs to any mask.
    """
    defect_free = {stem for stem in images if not class_of(stem)}
    stems = paired_stems(images, masks, expected, report, unannotated=defect_free)
    records = (
        _read_record(
            stem,
            images[stem],
            masks.get(stem),
            class_of(stem),
            place_of(stem, images[stem]),
            threshold,
            min_area,
            report,
            reader,
        )
        for stem in tqdm(stems, desc="reading", disable=None)
    )
    return [record for record in records if record is not None]


def _read_record(
    stem: str,
    image: Path,
    mask_path: Path | None,
    category: str,
    place: str,
    threshold: int,
    min_area: int,
    report: Report,
    reader: ImageReader,
) -> Record | None:
    inspected = inspect_image(image, stem, report, reader)
    if inspected is None:
        return None
    width, height, digest = inspected
    if mask_path is None:
        return Record(stem, place, image, width, height, digest, ())
    try:
        mask = read_mask(mask_path, threshold).astype(np.uint8)
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
    if not category:
        if mask.any():
            report.add("mask_on_defect_free", stem)
        return Record(stem, place, image, width, height, digest, ())
    boxes = _component_boxes(mask, category, stem, min_area, report)
    if not boxes:
        report.add("defect_without_box", stem)
    return Record(stem, place, image, width, height, digest, boxes, mask_path)


def _component_boxes(
    mask: np.ndarray, category: str, stem: str, min_area: int, report: Report
) -> tuple[Box, ...]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = []
    for label in range(1, count):  # 0 is the background
        *xywh, area = (int(value) for value in stats[label])
        if area < min_area:
            report.add("small_component", f"{stem} ({area} px at {xywh[0]},{xywh[1]})")
            continue
        rle = pycocotools.mask.encode(np.asfortranarray(labels == label, dtype=np.uint8))
        segmentation = {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}
        boxes.append(Box(category, tuple(map(float, xywh)), float(area), segmentation))
    return tuple(boxes)
