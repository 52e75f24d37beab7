#!/usr/bin/env python
"""Prepares Magnetic-Tile for Detectron2: python datasets/prepare_magnetic_tile.py SOURCE_DIR

SOURCE_DIR is the unpacked data set: MT_<class>/Imgs/ with images (*.jpg) and masks (*.png).
datasets/README.md says where to get it and what comes out.
"""

from detectron2_agssp.data.formats.cli import build_parser, run
from detectron2_agssp.data.formats.masks import MIN_AREA
from detectron2_agssp.data.formats.pipeline import prepare_magnetic_tile

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
