#!/usr/bin/env python
"""Prepares BTAD: python datasets/prepare_btad.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_mvtec
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="btad",
    title="BTAD, industrial products",
    page="https://www.kaggle.com/datasets/thtuan/btad-beantech-anomaly-detection",
    licence="CC BY-NC-SA 4.0",
    layout="0N/train/ok, 0N/test/{ok,ko}, 0N/ground_truth/ko",
    images=2540,
    read=read_mvtec,
)

if __name__ == "__main__":
    main(SET)
