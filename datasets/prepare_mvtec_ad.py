#!/usr/bin/env python
"""Prepares MVTec AD: python datasets/prepare_mvtec_ad.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_mvtec
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="mvtec_ad",
    title="MVTec AD: leather, grid, tile and wood",
    page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    licence="CC BY-NC-SA 4.0",
    layout="<object>/train/good, <object>/test/<defect>, <object>/ground_truth/<defect>",
    images=1384,
    read=read_mvtec,
)

if __name__ == "__main__":
    main(SET)
