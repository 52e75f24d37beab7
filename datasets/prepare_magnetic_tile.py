#!/usr/bin/env python
"""Prepares Magnetic-Tile for Detectron2: python datasets/prepare_magnetic_tile.py SOURCE_DIR

SOURCE_DIR is the unpacked data set: MT_<class>/Imgs/ with images (*.jpg) and masks (*.png).
datasets/README.md says where to get it and what comes out.
"""

from pathlib import Path

from detectron2_agssp.data.builtin import CLASSES
from detectron2_agssp.data.formats.cli import build_parser, run
from detectron2_agssp.data.formats.masks import read_binary_masks
from detectron2_agssp.data.formats.pairing import Source, require_pairs
from detectron2_agssp.data.formats.pipeline import prepare_dataset
from detectron2_agssp.data.formats.records import Labels
from detectron2_agssp.data.formats.report import Report

DEFECT_FREE = "Free"
EXPECTED = "MT_<class>/Imgs/ with images (*.jpg) and masks of the same names (*.png)"

# The masks were painted by hand and carry crumbs: beside or instead of a defect there are
# components of 1 to 9 pixels (20 in all 462), often on the rim of a large one. The smallest real
# defect, a blowhole, has 26. Any value between keeps every defect and no crumb.
MIN_AREA = 16

# Edges are soft (anti-aliased), in 388 of the 392 masks of defects.
THRESHOLD = 127


def prepare_magnetic_tile(
    source: str | Path, output: str | Path | None = None, min_area: int = MIN_AREA, **options
) -> Report:
    """Prepares Magnetic-Tile; other arguments, result and errors as of ``prepare_dataset``.

    Components of a mask with fewer than ``min_area`` pixels make no box. The masks of defect
    images come along in ``output/masks``.
    """

    def read(folder: Source) -> Labels:
        return read_magnetic_tile(folder, min_area)

    classes = CLASSES["magnetic_tile"]
    return prepare_dataset("magnetic_tile", classes, read, source, output=output, **options)


def read_magnetic_tile(source: Source, min_area: int) -> Labels:
    known = {f"MT_{name}" for name in (*CLASSES["magnetic_tile"], DEFECT_FREE)}
    images, masks = (
        [path for path in source.files(suffixes) if "/Imgs/" in path]
        for suffixes in ((".jpg", ".jpeg", ".bmp"), (".png",))
    )
    for folder in sorted({_folder(image) for image in images} - known):
        source.report.add("unknown_class", folder)
    images, masks = ([path for path in some if _folder(path) in known] for some in (images, masks))
    # Names repeat from class to class.
    pairs = source.pairs(images, masks, by_path=True, may_lack=lambda image: not _class(image))
    require_pairs(pairs, images, masks, source.root, EXPECTED)
    return read_binary_masks(
        pairs,
        lambda pair, mask: _class(pair.name),
        source,
        classes=CLASSES["magnetic_tile"],
        threshold=THRESHOLD,
        min_area=min_area,
    )


def _folder(stem: str) -> str:
    return stem.split("/")[0]


def _class(stem: str) -> str:
    name = _folder(stem).removeprefix("MT_")
    return "" if name == DEFECT_FREE else name


if __name__ == "__main__":
    parser = build_parser(__doc__, "magnetic_tile")
    parser.add_argument(
        "--min-area",
        type=int,
        default=MIN_AREA,
        metavar="N",
        help="parts of a mask with fewer pixels make no box (default: %(default)s)",
    )
    run(prepare_magnetic_tile, parser)
