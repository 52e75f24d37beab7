#!/usr/bin/env python
"""Prepares Magnetic-Tile: python datasets/prepare_magnetic_tile.py SOURCE_DIR"""

from detectron2_agssp.data.builtin import CLASSES
from detectron2_agssp.data.formats.masks import read_binary_masks
from detectron2_agssp.data.formats.pairing import Source, require_pairs
from detectron2_agssp.data.formats.records import Labels
from detectron2_agssp.data.formats.sets import PublishedSet, main

DEFECT_FREE = "Free"
EXPECTED = "MT_<class>/Imgs/ with images (*.jpg) and masks of the same names (*.png)"

# The masks were painted by hand and carry crumbs: beside or instead of a defect there are
# components of 1 to 9 pixels (20 in all 462), often on the rim of a large one. The smallest real
# defect, a blowhole, has 26. Any value between keeps every defect and no crumb.
MIN_AREA = 16

# Edges are soft (anti-aliased), in 388 of the 392 masks of defects.
THRESHOLD = 127


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


SET = PublishedSet(
    name="magnetic_tile",
    title="Magnetic-Tile, magnetic tiles",
    page="https://github.com/abin24/Magnetic-tile-defect-datasets.",
    licence="not stated",
    layout=EXPECTED,
    images=1344,
    read=read_magnetic_tile,
    options={"min_area": MIN_AREA},
    any_part=True,
)

if __name__ == "__main__":
    main(SET)
