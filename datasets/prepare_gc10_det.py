#!/usr/bin/env python
"""Prepares GC10-DET: python datasets/prepare_gc10_det.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main
from detectron2_agssp.data.formats.voc import read_voc

SET = PublishedSet(
    name="gc10_det",
    title="GC10-DET, steel sheet",
    page="https://github.com/lvxiaoming2019/GC10-DET-Metallic-Surface-Defect-Datasets",
    licence="not stated",
    layout=(
        "images in 1 to 10, Pascal VOC files in lable; train_mini_500.txt and val.txt for GC10-Mini"
    ),
    images=(2280, 2312),
    read=read_voc,
    options={"one_based": True},
    lists=("train_mini_500.txt", "val.txt"),
)

if __name__ == "__main__":
    main(SET)
