#!/usr/bin/env python
"""Prepares NEU-Seg: python datasets/prepare_neu_seg.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="neu_seg",
    title="NEU-Seg, hot-rolled steel strip",
    page="https://github.com/DHW-Master/NEU_Seg",
    licence="not stated",
    layout="images/{training,test}/*.jpg and annotations/{training,test}/*.png",
    images=4470,
    read=read_masks,
    options={
        "values": "classes",
        "codes": {"1": "inclusion", "2": "patches", "3": "scratches"},
        "min_area": 1,
    },
    split="folders",
    warning=(
        "NEU-Seg is made of NEU-DET's images: what is pretrained or trained on it has seen test "
        "images of NEU-DET"
    ),
)

if __name__ == "__main__":
    main(SET)
