#!/usr/bin/env python
"""Prepares SSGD: python datasets/prepare_ssgd.py SOURCE_DIR"""

from detectron2_agssp.data.formats.coco import read_coco_labels
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="ssgd",
    title="SSGD, smartphone screen glass",
    page="https://github.com/VincentHancoder/SSGD",
    licence="academic use",
    layout="images and COCO json",
    images=2504,
    read=read_coco_labels,
)

if __name__ == "__main__":
    main(SET)
