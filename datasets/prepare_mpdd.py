#!/usr/bin/env python
"""Prepares MPDD: python datasets/prepare_mpdd.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_mvtec
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="mpdd",
    title="MPDD, painted metal parts",
    page="https://github.com/stepanje/MPDD",
    licence="CC BY-NC-SA 4.0",
    layout="<object>/train/good, <object>/test/<defect>, <object>/ground_truth/<defect>",
    images=(1342, 1346),
    read=read_mvtec,
)

if __name__ == "__main__":
    main(SET)
