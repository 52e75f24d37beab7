"""What all readers return, and how their images are inspected and their boxes checked."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from detectron2_agssp.data.formats.pairing import Pair, Source
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image
from detectron2_agssp.io.images import read_header
from detectron2_agssp.io.masks import MaskValueError

# Pixels that a box may leave its image by without being reported: coordinates are rounded.
_ROUNDING = 0.5


@dataclass(frozen=True)
class Box:
    """One defect: ``xywh`` and ``area`` in pixels of the image, edges counted from 0;
    ``segmentation`` and ``iscrowd`` as in COCO."""

    category: str
    xywh: tuple[float, float, float, float]
    area: float
    segmentation: dict | list | None = None
    iscrowd: int = 0


@dataclass(frozen=True)
class Record:
    """One usable image with its defects.

    ``stem`` names it in the splits, ``file_name`` is its path below the folder of images, ``place``
    that below ``images/<split>/``; ``digest`` is the same for two images exactly if their pixels
    are.
    """

    stem: str
    file_name: str
    place: str
    image: Path
    width: int
    height: int
    digest: str
    boxes: tuple[Box, ...]
    mask: Path | None = None

    @property
    def group(self) -> str | None:
        """The class splits are balanced by: the most frequent one, None without boxes."""
        counts = Counter(sorted(box.category for box in self.boxes))
        return counts.most_common(1)[0][0] if counts else None


class UnusableLabelError(ValueError):
    """An annotation that its image is left out for, reported as ``kind``."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Labels(NamedTuple):
    """What a reader returns: the usable images, and the classes in the order of their ids."""

    records: list[Record]
    classes: list[str]


def records_as_coco(
    records: Iterable[Record],
    classes: Sequence[str],
    file_name_of: Callable[[Record], str],
    image_ids: dict[str, int],
) -> dict:
    """The COCO dict of ``records``.

    ``image_ids`` maps stems to ids, so that an image has the same one in every file of a data set.
    Boxes are XYWH in pixels; the category id of a class is its position in ``classes``, from 1.
    """
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    images, annotations = [], []
    for record in records:
        image_id, name = image_ids[record.stem], file_name_of(record)
        images.append(coco_image(image_id, name, height=record.height, width=record.width))
        for box in record.boxes:
            more = {} if box.segmentation is None else {"segmentation": box.segmentation}
            annotations.append(
                coco_annotation(
                    len(annotations) + 1,
                    image_id,
                    category_ids[box.category],
                    box.xywh,
                    area=box.area,
                    iscrowd=box.iscrowd,
                    **more,
                )
            )
    categories = coco_categories(classes)
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def read_records(
    pairs: Iterable[Pair],
    boxes_of: Callable[[Pair, int, int], tuple[Box, ...]],
    source: Source,
) -> list[Record]:
    """The images of ``pairs`` that can be read, with their boxes.

    Args:
        pairs: images and their annotations.
        boxes_of: called with a pair and the image's width and height in pixels; what it raises
            (MaskValueError, OSError, ValueError) leaves the image out, reported.
        source: how images are read, and where what is wrong goes.
    """
    report = source.report
    records = []
    for pair in tqdm(pairs, desc="reading", disable=None):
        inspected = inspect_image(pair.image, pair.name, source)
        if inspected is None:
            continue
        width, height, digest = inspected
        try:
            boxes = boxes_of(pair, width, height)
        except (OSError, ValueError) as error:
            kind = "mask_values" if isinstance(error, MaskValueError) else "unreadable_annotation"
            report.add(getattr(error, "kind", kind), f"{pair.name} ({error})")
            continue
        place, file_name = pair.place, pair.file_name
        records.append(
            Record(pair.name, file_name, place, pair.image, width, height, digest, boxes)
        )
    return records


def box_inside(
    category: str,
    corners: Sequence[float],
    size: tuple[int, int],
    where: str,
    report: Report,
    **more: Any,
) -> Box | None:
    """A box cut at the border of its image; None, reported, if nothing of it is inside.

    Args:
        category: its class.
        corners: XYXY in pixels, edges counted from 0.
        size: width and height of the image.
        where: names the box in the report.
        report: boxes that are cut or left out go there.
        more: other fields of :class:`Box`; by default ``area`` is that of the box.
    """
    left, top, right, bottom = np.clip(corners, 0, (*size, *size)).tolist()
    text = f"{where} ({' '.join(f'{corner:g}' for corner in corners)})"
    # Written so that a NaN, too, ends here.
    if not (right > left and bottom > top):
        report.add("box_dropped", text)
        return None
    if not np.allclose(corners, (left, top, right, bottom), rtol=0, atol=_ROUNDING):
        report.add("box_clipped", text)
    xywh = (left, top, right - left, bottom - top)
    return Box(category, xywh, **{"area": xywh[2] * xywh[3], **more})


def report_unlabelled(pairs: Iterable[Pair], report: Report) -> None:
    """Reports the images that have no annotation, where that means that they have no defect."""
    for pair in pairs:
        if not pair.labels:
            report.add("image_without_label", pair.name)


def orientation_of(
    pair: Pair, kind: str, declared: Sequence[Any], size: tuple[int, int], report: Report
) -> int:
    """How the pixels lie that annotations are of, as EXIF counts it: 1 is upright.

    Args:
        pair: the image.
        kind: of the annotations, in messages.
        declared: the width and height that they give.
        size: width and height of the image as it is read.
        report: annotations without a size, and of photos that EXIF turns, go there.

    Raises:
        UnusableLabelError: they are of an image of another size, which was cropped or resized.
    """
    text = f"{kind} {'x'.join(str(side or 0) for side in declared)}, image {size[0]}x{size[1]}"
    try:
        width, height = (round(float(side or 0)) for side in declared)
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if (width, height) == size:
        return 1
    if not width or not height:
        report.add("size_missing", f"{pair.name} ({text})")
        return 1
    *_, orientation = read_header(pair.image) if (height, width) == size else (1,)
    if orientation <= 4:
        raise UnusableLabelError("size_differs", text)
    report.add("boxes_turned", f"{pair.name} ({text})")
    return orientation


def polygon_corners(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """XYXY around polygons, each x, y, x, y, ..."""
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def polygons_inside(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> list[list]:
    """Polygons moved to the border of their image (width, height) where they leave it."""
    return [np.clip(np.reshape(polygon, (-1, 2)), 0, size).ravel().tolist() for polygon in polygons]


def polygon_area(polygons: Sequence[Sequence[float]]) -> float:
    """Pixels inside polygons that do not overlap, by the shoelace formula."""
    area = 0.0
    for polygon in polygons:
        x, y = np.reshape(polygon, (-1, 2)).T
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return float(area)


def inspect_image(path: Path, stem: str, source: Source) -> tuple[int, int, str] | None:
    """Width and height in pixels and a hash of the pixels; None, reported, if it cannot be read.

    It is decoded completely, as training will, orientation applied: a header alone does not show
    that a file was cut short.
    """
    try:
        pixels = source.reader(path)
    except (OSError, ValueError) as error:
        source.report.add("unreadable_image", f"{stem} ({error})")
        return None
    height, width = pixels.shape[:2]
    shape = f"{width}x{height}:".encode()
    return width, height, hashlib.sha256(shape + pixels.tobytes()).hexdigest()
