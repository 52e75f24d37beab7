"""Pixel masks: one or several per image; a class is told by a mask's path or by its values."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from detectron2_agssp.data.formats.pairing import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    MASK_FOLDERS,
    SPLIT_FOLDERS,
    Pair,
    Source,
    folders_of,
    require_pairs,
    stem_of,
)
from detectron2_agssp.data.formats.records import (
    Box,
    Labels,
    UnusableLabelError,
    read_records,
    report_unlabelled,
)
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.images import IMAGE_SUFFIXES
from detectron2_agssp.io.masks import (
    COLOURS,
    MaskValueError,
    encode_mask,
    read_mask,
    read_mask_values,
)

VALUES = ("binary", "instances", "classes")
DEFECT = "defect"
EXPECTED = "images, and masks of the same names in folders such as masks/ or with names as 1_mask"
# More values than this in one mask are grey levels, not classes or instances.
_MAX_VALUES = 1000
# What the name of a mask ends in.
_KIND = r"(mask|gt|label|seg|groundtruth)\d*"
_GOOD = frozenset(("good", "ok"))


def read_masks(
    source: Source,
    classes: Collection[str] | None = None,
    *,
    values: str = "binary",
    codes: Mapping[str, str] | None = None,
    threshold: int | None = None,
    min_area: int = 1,
    class_of: Callable[[Pair, Path], str] | None = None,
) -> Labels:
    """Reads images with their masks; an image without a mask is free of defects.

    A mask lies in a folder such as ``masks`` or ``ground_truth``, has a name as ``1_mask.png``, or
    lies as a lossless file beside a JPEG of its name. A box is an 8-connected component of a mask.
    Its class is the first folder of the mask that is not the image's (``masks/crack/1.png``), else
    what its name has beyond the image's (``1_crack.png``), else "defect".

    Args:
        source: the folders.
        classes: in the order of their ids; by default all that there are, sorted.
        values: "binary", a mask marks what is defect; "instances", each value or colour but 0 is
            an object; "classes", each value or colour but 0 is a class.
        codes: with "classes", the class of each value ("1") or colour ("#ff0000"); by default
            the classes are named so. A class "" is none.
        threshold: with "binary", what is above it is defect; by default 127, or 0 where no mask
            has a value above 1.
        min_area: pixels of a component.
        class_of: with "binary", the class of a mask, where the above is not so.

    Raises:
        FileNotFoundError: no images, or no masks.
        ValueError: no image belongs to any mask, or an argument is out of its range.
    """
    if values not in VALUES:
        raise ValueError(f"values of masks are {', '.join(VALUES)}; got {values!r}")
    masks = _mask_files(source)
    beside = set(masks) if source.root == source.image_root else set()
    images = [image for image in source.images() if image not in beside]
    pairs = source.pairs(images, masks, several=True, may_lack=lambda image: True)
    require_pairs(pairs, images, masks, source.root, EXPECTED)
    report_unlabelled(pairs, source.report)
    if values == "binary":

        def by_path(pair: Pair, mask: Path) -> str:
            return _class_of(pair.file_name, mask.relative_to(source.root).as_posix())

        return read_binary_masks(
            pairs,
            class_of or by_path,
            source,
            classes=classes,
            threshold=threshold,
            min_area=min_area,
            may_be_empty=True,
        )

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        boxes: list[Box] = []
        for path in pair.labels:
            mask = read_mask_values(path)
            _check_size(mask, width, height)
            found = [value for value in np.unique(mask).tolist() if value]
            if len(found) > _MAX_VALUES:
                raise MaskValueError(f"{len(found)} values are grey levels, not {values}")
            for value in found:
                marked = (mask == value).astype(np.uint8)
                if values == "instances":
                    boxes += component_boxes(
                        marked,
                        _class_of(pair.file_name, path.relative_to(source.root).as_posix()),
                        pair.name,
                        min_area,
                        source.report,
                        whole=True,
                    )
                    continue
                code = f"#{value - COLOURS:06x}" if value >= COLOURS else str(value)
                name = code if codes is None else codes.get(code)
                if name is None:
                    source.report.add("unknown_class", f"{pair.name} (value {code})")
                elif name:
                    boxes += component_boxes(marked, name, pair.name, min_area, source.report)
        return tuple(boxes)

    records = read_records(pairs, boxes_of, source)
    return known_classes(Labels(records, _classes(records, classes)), source.report)


def codes_from(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The ``codes`` of :func:`read_masks` from pairs of a value or colour and its class; of several
    values one class is one class.

    Raises:
        ValueError: a value has two classes.
    """
    codes: dict[str, str] = {}
    for value, name in pairs:
        if codes.setdefault(value, name) != name:
            raise ValueError(f"the value {value} is both {codes[value]!r} and {name!r}")
    return codes


def read_mvtec(
    source: Source, classes: Collection[str] | None = None, *, min_area: int = 1
) -> Labels:
    """Reads MVTec AD's layout, of one object or of several: ``train/good``, ``test/<defect>``, and
    ``ground_truth/<defect>`` with a mask for each defect image. The defect is the class.

    Args:
        source: the folders.
        classes: in the order of their ids; by default all that there are, sorted.
        min_area: pixels of a component.

    Raises:
        FileNotFoundError: no images, or no masks.
        ValueError: no image belongs to any mask.
    """
    # Without the folders test and ground_truth, an image and its mask have the same.
    masks = [path for path in source.files(IMAGE_SUFFIXES) if set(folders_of(path)) & MASK_FOLDERS]
    images = [
        path for path in source.images(MASK_FOLDERS) if set(folders_of(path)) & {"train", "test"}
    ]
    pairs = source.pairs(
        images,
        masks,
        several=True,
        exact=True,
        by_path=True,
        may_lack=lambda image: folders_of(image)[-1] in _GOOD,
    )
    expected = "train/good/*, test/<defect>/* and ground_truth/<defect>/* with a mask for each"
    require_pairs(pairs, images, masks, source.root, expected)
    return read_binary_masks(
        pairs,
        lambda pair, mask: mask.parent.name,
        source,
        classes=classes,
        min_area=min_area,
    )


def read_binary_masks(
    pairs: Collection[Pair],
    class_of: Callable[[Pair, Path], str],
    source: Source,
    *,
    classes: Collection[str] | None = None,
    threshold: int | None = None,
    min_area: int = 1,
    may_be_empty: bool = False,
) -> Labels:
    """Reads images whose masks mark what is defect; other arguments as of :func:`read_masks`.

    Args:
        pairs: images, and the masks of each.
        class_of: the class of a mask; "" for a mask of an image without defects, which should mark
            nothing.
        may_be_empty: a mask that marks nothing is no problem.
        source: the folders.
    """
    report = source.report
    if threshold is None:
        brightest = 0
        for mask in (mask for pair in pairs for mask in pair.labels):
            try:
                brightest = max(brightest, int(read_mask_values(mask).max()))
            except (OSError, ValueError):
                continue  # reading it again will say so
            if brightest > 1:
                break
        threshold = 127 if brightest > 1 else 0

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        boxes: list[Box] = []
        for path in pair.labels:
            category = class_of(pair, path)
            mask = read_mask(path, threshold).astype(np.uint8)
            _check_size(mask, width, height)
            if category:
                boxes += component_boxes(mask, category, pair.name, min_area, report)
            elif mask.any():
                report.add("mask_on_defect_free", pair.name)
        return tuple(boxes)

    records = read_records(pairs, boxes_of, source)
    masks = {
        pair.name: pair.labels for pair in pairs if any(class_of(pair, m) for m in pair.labels)
    }
    for number, record in enumerate(records):
        if record.stem in masks and not record.boxes and not may_be_empty:
            report.add("defect_without_box", record.stem)
        if len(masks.get(record.stem, ())) == 1:
            records[number] = replace(record, mask=masks[record.stem][0])
    return known_classes(Labels(records, _classes(records, classes)), report)


def component_boxes(
    mask: np.ndarray,
    category: str,
    stem: str,
    min_area: int,
    report: Report,
    *,
    whole: bool = False,
) -> list[Box]:
    """A box for each 8-connected component of a mask, or, with ``whole``, for all of it.

    Args:
        mask: (H, W) uint8, 0 or 1.
        category: class of the boxes.
        stem: names the image in the report.
        min_area: pixels; smaller components are reported and make no box.
        report: where.
        whole: the mask is a single object, in however many parts.
    """
    if whole:
        count, labels = 2, mask
        stats = np.array([[0] * 5, [*cv2.boundingRect(mask), int(mask.sum())]])
    else:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = []
    for label in range(1, count):  # 0 is the background
        *xywh, area = (int(value) for value in stats[label])
        if area < min_area:
            report.add("small_component", f"{stem} ({area} px at {xywh[0]},{xywh[1]})")
            continue
        box = tuple(map(float, xywh))
        boxes.append(Box(category, box, float(area), encode_mask(labels == label)))
    return boxes


def known_classes(labels: Labels, report: Report) -> Labels:
    """Without the boxes of classes that are not listed, each of which is reported."""
    records = []
    for record in labels.records:
        kept = tuple(box for box in record.boxes if box.category in labels.classes)
        for box in record.boxes:
            if box.category not in labels.classes:
                report.add("unknown_class", f"{record.stem} ({box.category!r})")
        records.append(replace(record, boxes=kept))
    return Labels(records, labels.classes)


def _classes(records, classes: Collection[str] | None) -> list[str]:
    if classes is not None:
        return list(classes)
    return sorted({box.category for record in records for box in record.boxes})


def _mask_files(source: Source) -> list[str]:
    """The files that are masks by their folder, their name, or the JPEG beside them."""
    files = source.files(IMAGE_SUFFIXES)
    if source.root != source.image_root:
        return files
    stems = {path.rsplit(".", 1)[0] for path in files if path.lower().endswith((".jpg", ".jpeg"))}
    return [
        path
        for path in files
        if set(folders_of(path)) & (MASK_FOLDERS | LABEL_FOLDERS)
        or re.search(rf"[_-]{_KIND}$", stem_of(path), re.IGNORECASE)
        or (not path.lower().endswith((".jpg", ".jpeg")) and path.rsplit(".", 1)[0] in stems)
    ]


def _class_of(image: str, mask: str) -> str:
    """See :func:`read_masks`."""
    ignored = {*folders_of(image), *IMAGE_FOLDERS, *LABEL_FOLDERS, *MASK_FOLDERS, *SPLIT_FOLDERS}
    for folder in mask.split("/")[:-1]:
        if folder.lower() not in ignored:
            return folder
    more = stem_of(mask).removeprefix(stem_of(image)).strip("_-")
    return re.sub(rf"(^|_){_KIND}$", "", more.replace("-", "_"), flags=re.IGNORECASE) or DEFECT


def _check_size(mask: np.ndarray, width: int, height: int) -> None:
    if mask.shape != (height, width):
        turned = ", which EXIF turns" if mask.shape == (width, height) else ""
        text = f"mask {mask.shape[1]}x{mask.shape[0]}, image {width}x{height}{turned}"
        raise UnusableLabelError("mask_size_differs", text)
