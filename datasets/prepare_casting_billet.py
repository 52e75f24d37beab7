#!/usr/bin/env python
"""Prepares Casting Billet: python datasets/prepare_casting_billet.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main
from detectron2_agssp.data.formats.yolo import read_yolo

SET = PublishedSet(
    name="casting_billet",
    title="Casting Billet of the authors of AGSSP",
    page="the authors' Google Drive, linked at https://arxiv.org/abs/2509.18919",
    licence="not stated",
    layout=(
        "images/*.jpg, labels/*.txt (YOLO; absent or empty: free of defects), mask/*.png,"
        " train_mini_500.txt, val.txt"
    ),
    images=1060,
    read=read_yolo,
    lists=("train_mini_500.txt", "val.txt"),
)

if __name__ == "__main__":
    main(SET)
