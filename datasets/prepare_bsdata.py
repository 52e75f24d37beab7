#!/usr/bin/env python
"""Prepares BSData: python datasets/prepare_bsdata.py SOURCE_DIR"""

from detectron2_agssp.data.formats.labelme import read_labelme
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="bsdata",
    title="BSData, ball screw drives",
    page="https://github.com/2Obe/BSData",
    licence="not stated",
    layout="data/*.jpg and label/*.json (labelme)",
    images=1104,
    read=read_labelme,
)

if __name__ == "__main__":
    main(SET)
