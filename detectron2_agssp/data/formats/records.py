"""What both readers return, and how images are found, paired with annotations and inspected."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image
from detectron2_agssp.io.images import ImageReader


@dataclass(frozen=True)
class Box:
    """One defect: ``xywh`` and ``area`` in pixels of the image, edges counted from 0."""

    category: str
    xywh: tuple[float, float, float, float]
    area: float
    segmentation: dict | None = None


@dataclass(frozen=True)
class Record:
    """One usable image with its defects.

    ``stem`` names it in the splits, ``place`` is its path below ``images/<split>/``, ``digest``
    is the same for two images exactly if their pixels are.
    """

    stem: str
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


def records_as_coco(
    records: Iterable[Record],
    classes: Sequence[str],
    folder: str,
    image_ids: dict[str, int],
) -> dict:
    """The COCO dict of ``records``.

    ``folder`` goes before every file name; ``image_ids`` maps stems to ids, so that an image has
    the same one in every file of a data set. Boxes are XYWH in pixels; the category id of a class
    is its position in ``classes``, from 1.
    """
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    images, annotations = [], []
    for record in records:
        image_id, name = image_ids[record.stem], f"{folder}/{record.place}"
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
                    **more,
                )
            )
    categories = coco_categories(classes)
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def checked_source(source: str | Path) -> Path:
    """The source folder, absolute. Raises FileNotFoundError if there is no such folder."""
    path = Path(source).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"no source folder {str(source)!r}: give the folder of the unpacked data set "
            "(datasets/README.md says where to get it)"
        )
    return path.resolve()


def visible_files(source: Path, pattern: str, suffixes: Collection[str]) -> list[Path]:
    """Files below ``source`` that match, sorted; without what macOS adds to archives."""
    return [
        path
        for path in sorted(source.glob(pattern))
        if path.suffix.lower() in suffixes
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(source).parts)
    ]


def index_by_stem(stems_and_paths: Iterable[tuple[str, Path]], report: Report) -> dict[str, Path]:
    """The first path of every stem; further ones are reported."""
    index: dict[str, Path] = {}
    for stem, path in stems_and_paths:
        if stem in index:
            report.add("same_name_twice", f"{path} (used: {index[stem]})")
        else:
            index[stem] = path
    return index


def paired_stems(
    images: dict[str, Path],
    annotations: dict[str, Path],
    expected: str,
    report: Report,
    unannotated: Collection[str] = (),
) -> list[str]:
    """The sorted stems to read, and a report of those that lack their other half.

    ``unannotated`` stems need no annotation; ``expected`` describes the layout for the errors.
    Raises FileNotFoundError where there is no image or no annotation at all, ValueError where no
    two of them belong together.
    """
    if not images or not annotations:
        raise FileNotFoundError(
            f"{report.source} holds {len(images)} images and {len(annotations)} annotations; "
            f"expected {expected}"
        )
    if not images.keys() & annotations.keys():
        raise ValueError(
            f"none of the {len(images)} images (such as {min(images)!r}) has the name of one of "
            f"the {len(annotations)} annotations (such as {min(annotations)!r}) in "
            f"{report.source}; expected {expected}"
        )
    for stem in sorted(images.keys() - annotations.keys() - set(unannotated)):
        report.add("image_without_annotation", stem)
    for stem in sorted(annotations.keys() - images.keys()):
        report.add("annotation_without_image", stem)
    return sorted(images.keys() & (annotations.keys() | set(unannotated)))


def inspect_image(
    path: Path, stem: str, report: Report, reader: ImageReader
) -> tuple[int, int, str] | None:
    """Width and height in pixels and a hash of the pixels; None, reported, if it cannot be read.

    It is decoded completely, as training will, orientation applied: a header alone does not show
    that a file was cut short.
    """
    try:
        pixels = reader(path)
    except (OSError, ValueError) as error:
        report.add("unreadable_image", f"{stem} ({error})")
        return None
    height, width = pixels.shape[:2]
    shape = f"{width}x{height}:".encode()
    return width, height, hashlib.sha256(shape + pixels.tobytes()).hexdigest()
