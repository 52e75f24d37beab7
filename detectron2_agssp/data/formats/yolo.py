"""YOLO text: a file per image, a line per object, in parts of the image's width and height."""

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from detectron2_agssp.data.formats.layout import place_file
from detectron2_agssp.data.formats.pairing import (
    LABEL_FOLDERS,
    MASK_FOLDERS,
    Pair,
    Source,
    folders_of,
    require_pairs,
)
from detectron2_agssp.data.formats.records import (
    Box,
    Labels,
    box_inside,
    polygon_area,
    polygon_corners,
    polygons_inside,
    read_records,
    report_unlabelled,
)
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.files import atomic_write, read_text, safe_join, user_path
from detectron2_agssp.io.unique_keys import UniqueKeyLoader

EXPECTED = "images, and text files of the same names (*.txt), beside them or in labels/"
_CLASS_FILES = ("classes.txt", "obj.names", "labels.txt")


def read_yolo(source: Source, classes: Collection[str] | None = None) -> Labels:
    """Reads all images but those in folders of masks, sorted by name; without a text file, or with
    an empty one, they are free of defects.

    A line is ``class x y width height`` (centre and size) or ``class x1 y1 x2 y2 x3 y3 ...``, the
    corners of a polygon.

    Args:
        source: the folders.
        classes: in the order of their ids; by default those of ``data.yaml`` (``names``) or
            ``classes.txt``, else their numbers.

    Raises:
        FileNotFoundError: no images, or no text files.
        ValueError: no image belongs to any text file, or the classes cannot be read.
    """
    images = source.images(MASK_FOLDERS)
    texts = [path for path in source.files((".txt",)) if path.split("/")[-1] not in _CLASS_FILES]
    in_folders = [path for path in texts if set(folders_of(path)) & LABEL_FOLDERS]
    texts = in_folders or texts
    pairs = source.pairs(images, texts, may_lack=lambda image: True)
    require_pairs(pairs, images, texts, source.root, EXPECTED)
    report_unlabelled(pairs, source.report)
    names = _class_names(source) if classes is None else list(classes)
    numbers: set[int] = set()

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        boxes = []
        for path in pair.labels:
            for number, line in enumerate(read_text(path).splitlines(), start=1):
                where = f"{pair.name} line {number}"
                if not line.strip():
                    continue
                try:
                    index, values = _parse(line)
                except (ValueError, OverflowError):
                    source.report.add("unreadable_box", f"{where} ({line.strip()[:60]!r})")
                    continue
                if names and not 0 <= index < len(names):
                    source.report.add("unknown_class", f"{where} ({index})")
                    continue
                numbers.add(index)
                category = names[index] if names else str(index)
                if box := _box(category, values, (width, height), where, source.report):
                    boxes.append(box)
        return tuple(boxes)

    records = read_records(pairs, boxes_of, source)
    if not names:
        source.report.notes.append("neither data.yaml nor classes.txt: classes are numbers")
        return Labels(records, [str(number) for number in sorted(numbers)])
    return Labels(records, list(dict.fromkeys(names)))


def write_yolo(coco: dict, folder: str | Path, image_root: str | Path) -> list[str]:
    """Writes a COCO dict as ``images`` (links), ``labels`` and ``data.yaml``.

    An object whose segmentation is one polygon is written as that, others as boxes.

    Args:
        coco: the COCO dict; its images have sizes.
        folder: to write; files that are there are replaced.
        image_root: what the images' file names are relative to.

    Returns:
        the segmentations that were left out, a line each.
    """
    folder, image_root = user_path(folder), user_path(image_root).resolve()
    order = {entry["id"]: number for number, entry in enumerate(coco["categories"])}
    lines: dict = {image["id"]: [] for image in coco["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    left_out = []
    for entry in coco["annotations"]:
        (width, height), (x, y, w, h) = sizes[entry["image_id"]], entry["bbox"]
        polygons = entry.get("segmentation") or []
        if isinstance(polygons, list) and len(polygons) == 1:
            sides = (width, height) * (len(polygons[0]) // 2)
            values = [value / side for value, side in zip(polygons[0], sides, strict=True)]
        else:
            values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            if polygons:
                left_out.append(f"annotation {entry['id']}: not one polygon")
        texts = (f"{value:.7g}" for value in values)
        lines[entry["image_id"]].append(f"{order[entry['category_id']]} {' '.join(texts)}\n")
    for image in coco["images"]:
        name = image["file_name"]
        place_file(image_root / name, safe_join(folder / "images", name), copy=False)
        label = safe_join(folder / "labels", name).with_suffix(".txt")
        with atomic_write(label) as file:
            file.writelines(lines[image["id"]])
    names = [entry["name"] for entry in coco["categories"]]
    with atomic_write(folder / "data.yaml") as file:
        yaml.safe_dump({"train": "images", "nc": len(names), "names": names}, file)
    return left_out


def _parse(line: str) -> tuple[int, list[float]]:
    """Class and coordinates of a line; ValueError or OverflowError if it is none."""
    first, *rest = line.split()
    values = [float(text) for text in rest]
    index = float(first)
    if index != int(index) or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
        raise ValueError(line)
    return int(index), values


def _box(
    category: str, values: Sequence[float], size: tuple[int, int], where: str, report: Report
) -> Box | None:
    if len(values) == 4:
        x, y, w, h = values
        parts = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        corners = [part * side for part, side in zip(parts, size * 2, strict=True)]
        # To a thousandth of a pixel: more is the noise of the parts.
        return box_inside(category, [round(corner, 3) for corner in corners], size, where, report)
    sides = size * (len(values) // 2)
    scaled = [round(value * side, 3) for value, side in zip(values, sides, strict=True)]
    polygons = polygons_inside([scaled], size)
    return box_inside(
        category,
        polygon_corners([scaled]),
        size,
        where,
        report,
        area=polygon_area(polygons),
        segmentation=polygons,
    )


def _class_names(source: Source) -> list[str]:
    """Of the yaml or the list nearest to the root; none if there is neither."""
    files = sorted(source.files((".yaml", ".yml", ".txt", ".names")), key=lambda p: p.count("/"))
    for path in files:
        names = None
        if path.endswith((".yaml", ".yml")):
            names = _yaml_names(source.root / path)
        elif path.split("/")[-1] in _CLASS_FILES:
            lines = read_text(source.root / path).splitlines()
            names = [line.strip() for line in lines if line.strip()]
        if names:
            for name in sorted({name for name in names if names.count(name) > 1}):
                source.report.add("class_twice", f"{name} ({path})")
            source.report.notes.append(f"classes of {source.root / path}")
            return names
    return []


def _yaml_names(path: Path) -> list[str] | None:
    try:
        content = yaml.load(read_text(path), Loader=UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not yaml that can be read ({error})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ValueError(f"{path} names the classes {list(names)}, not 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    return [str(name) for name in names] if isinstance(names, list) else None
