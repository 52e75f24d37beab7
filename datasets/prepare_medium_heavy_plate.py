#!/usr/bin/env python
"""Prepares medium-heavy plate: python datasets/prepare_medium_heavy_plate.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main
from detectron2_agssp.data.formats.yolo import read_yolo

SET = PublishedSet(
    name="medium_heavy_plate",
    title="medium-heavy plate of the authors of AGSSP",
    page="the authors' Google Drive, linked at https://arxiv.org/abs/2509.18919",
    licence="not stated",
    layout=(
        "images/*.jpg, labels/*.txt (YOLO; absent or empty: free of defects), mask/*.png,"
        " train_mini_500.txt, val.txt"
    ),
    images=680,
    read=read_yolo,
    lists=("train_mini_500.txt", "val.txt"),
)

if __name__ == "__main__":
    main(SET)
