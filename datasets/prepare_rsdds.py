#!/usr/bin/env python
"""Prepares RSDDs: python datasets/prepare_rsdds.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="rsdds",
    title="RSDDs, rail surfaces",
    page="http://icn.bjtu.edu.cn/Visint/resources/RSDDs.aspx",
    licence="research",
    layout="images, and masks of the same names in GroundTruth, of Type-I and Type-II",
    images=195,
    read=read_masks,
)

if __name__ == "__main__":
    main(SET)
