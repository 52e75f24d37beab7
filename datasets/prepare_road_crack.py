#!/usr/bin/env python
"""Prepares road cracks: python datasets/prepare_road_crack.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="road_crack",
    title="road cracks",
    page="Google Drive, linked in https://arxiv.org/abs/2509.18919",
    licence="research",
    layout="images, and masks of the same names in masks",
    images=776,
    read=read_masks,
)

if __name__ == "__main__":
    main(SET)
