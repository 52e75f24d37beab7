#!/usr/bin/env python
"""Prepares FSSD-12: python datasets/prepare_fssd_12.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="fssd_12",
    title="FSSD-12, steel strip, twelve classes",
    page="https://github.com/VDT-2048/CPANet",
    licence="not stated",
    layout="images, and masks of the same names in GT, in a folder per class",
    images=1200,
    read=read_masks,
    options={"class_of": lambda pair, mask: pair.file_name.split("/")[-2]},
)

if __name__ == "__main__":
    main(SET)
