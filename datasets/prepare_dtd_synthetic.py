#!/usr/bin/env python
"""Prepares DTD-Synthetic: python datasets/prepare_dtd_synthetic.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_mvtec
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="dtd_synthetic",
    title="DTD-Synthetic, textures",
    page=("Google Drive, linked in the paper (Aota et al., Zero-Shot Versus Many-Shot, WACV 2023)"),
    licence="research",
    layout="<object>/train/good, <object>/test/<defect>, <object>/ground_truth/<defect>",
    images=2504,
    read=read_mvtec,
)

if __name__ == "__main__":
    main(SET)
