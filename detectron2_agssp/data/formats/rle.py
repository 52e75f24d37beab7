"""Run lengths in a table, as Severstal's ``train.csv``."""

import csv
import re
from collections import defaultdict
from collections.abc import Collection

import numpy as np

from detectron2_agssp.data.formats.masks import component_boxes
from detectron2_agssp.data.formats.pairing import Pair, Source
from detectron2_agssp.data.formats.records import (
    Box,
    Labels,
    UnusableLabelError,
    read_records,
)
from detectron2_agssp.io.files import read_text
from detectron2_agssp.utils.naming import some_of

EXPECTED = (
    "images, and a table (*.csv) with the columns ImageId, ClassId, EncodedPixels, or "
    "ImageId_ClassId, EncodedPixels"
)


def read_rle(
    source: Source, classes: Collection[str] | None = None, *, min_area: int = 1
) -> Labels:
    """Reads all images below the folder of the first image that the table names; those that it does
    not name, or without run lengths, are free of defects.

    Run lengths are pairs of a first pixel, counted from 1 downwards column by column, and a number
    of pixels. Columns are separated by commas, semicolons, tabs or vertical bars; Excel's line
    before the header, which says so, may be there. A box is an 8-connected component of the pixels
    of a class. A crop cannot be told from the image as long as no run ends outside of it.

    Args:
        source: the folders.
        classes: in the order of their ids, from 1; by default the ids.
        min_area: pixels of a component.

    Raises:
        FileNotFoundError: no images, or no such table.
        ValueError: no image is named in the table.
    """
    rows = _read_table(source)
    images = source.images()
    found = source.resolve(sorted({image for image, _, _ in rows}), images)
    if not found:
        raise ValueError(f"{source.root} has none of the images of its table; expected {EXPECTED}")
    folders = {path.rpartition("/")[0] for path in found.values()}
    pairs = source.named([path for path in images if path.rpartition("/")[0] in folders])
    runs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image, category, text in rows:
        if image not in found:
            source.report.add("annotation_without_image", image)
        elif text:
            runs[found[image]].append((category, text))
        else:
            runs[found[image]] += []
    ids = {category for some in runs.values() for category, _ in some}
    names = sorted(ids, key=lambda text: (len(text), text)) if classes is None else list(classes)
    for image in pairs.keys() - runs.keys():
        source.report.add("image_without_label", pairs[image].name)

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        boxes: list[Box] = []
        for category, text in runs.get(pair.file_name, ()):
            name = category
            if classes is not None:
                known = category.isdigit() and 0 < int(category) <= len(names)
                name = names[int(category) - 1] if known else ""
            if not name:
                source.report.add("unknown_class", f"{pair.name} ({category!r})")
                continue
            mask = _decode(text, height, width)
            boxes += component_boxes(mask, name, pair.name, min_area, source.report)
        return tuple(boxes)

    return Labels(read_records(pairs.values(), boxes_of, source), names)


def _read_table(source: Source) -> list[tuple[str, str, str]]:
    """(image, class id, run lengths) of every row of the first table that has these columns."""
    others = []
    for path in source.files((".csv", ".tsv")):
        try:
            lines = read_text(source.root / path).splitlines()
        except (OSError, ValueError) as error:
            others.append(f"{path} ({error})")
            continue
        if lines and lines[0].strip('" ').lower().startswith("sep="):
            lines = lines[1:]
        header = lines[0] if lines else ""
        separator = max(",;\t|", key=header.count)
        columns = [re.sub(r"\W", "", name).lower() for name in header.split(separator)]
        if "encodedpixels" not in columns or not {"imageid", "imageid_classid"} & set(columns):
            others.append(f"{path} (begins with {header[:60]!r})" if lines else f"{path} (empty)")
            continue
        rows = []
        for line in csv.reader(lines[1:], delimiter=separator):
            cells = dict(zip(columns, map(str.strip, line), strict=False))
            if not any(cells.values()):
                continue
            image, category = cells.get("imageid", ""), cells.get("classid", "1")
            if "imageid_classid" in cells:
                image, _, category = cells["imageid_classid"].rpartition("_")
            # Pandas writes the numbers of a column with gaps as 1.0.
            category = re.sub(r"^(\d+)\.0$", r"\1", category)
            rows.append((image, category, cells.get("encodedpixels", "")))
        source.report.notes.append(f"run lengths of {source.root / path}")
        return rows
    instead = f", but {some_of(others, 3)}" if others else ""
    raise FileNotFoundError(
        f"{source.root} holds no table of run lengths{instead}; expected {EXPECTED}"
    )


def _decode(text: str, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 of run lengths; those that leave the image have been made for another one."""
    try:
        numbers = np.array([int(word) for word in text.split()])
    except ValueError as error:
        raise ValueError(f"run lengths that are no numbers: {text[:40]!r}") from error
    if len(numbers) % 2 or (numbers < 1).any():
        raise ValueError(f"run lengths that are no pairs of numbers above 0: {text[:40]!r}")
    mask = np.zeros(height * width, np.uint8)
    for start, length in numbers.reshape(-1, 2):
        if start - 1 + length > mask.size:
            where = f"pixel {start - 1 + length} of an image {width}x{height}"
            raise UnusableLabelError("mask_size_differs", f"run lengths to {where}")
        mask[start - 1 : start - 1 + length] = 1
    return mask.reshape(width, height).T.copy()
