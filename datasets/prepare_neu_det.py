#!/usr/bin/env python
"""Prepares NEU-DET for Detectron2: python datasets/prepare_neu_det.py SOURCE_DIR

SOURCE_DIR is the unpacked data set: images (*.jpg) and Pascal VOC files (*.xml), in any folders.
datasets/README.md says where to get it and what comes out.
"""

from detectron2_agssp.data.formats.cli import build_parser, run
from detectron2_agssp.data.formats.pipeline import prepare_neu_det

if __name__ == "__main__":
    run(prepare_neu_det, build_parser(__doc__, "neu_det"))
