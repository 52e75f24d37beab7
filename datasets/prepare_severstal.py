#!/usr/bin/env python
"""Prepares Severstal: python datasets/prepare_severstal.py SOURCE_DIR"""

from detectron2_agssp.data.formats.rle import read_rle
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="severstal",
    title="Severstal, steel strip",
    page="https://www.kaggle.com/c/severstal-steel-defect-detection",
    licence="competition rules",
    layout="train_images/*.jpg and train.csv (ImageId, ClassId, EncodedPixels)",
    images=12568,
    read=read_rle,
    options={"classes": ["1", "2", "3", "4"], "min_area": 1},
)

if __name__ == "__main__":
    main(SET)
