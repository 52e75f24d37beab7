#!/usr/bin/env python
"""Prepares CR7-DET: python datasets/prepare_cr7_det.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main
from detectron2_agssp.data.formats.yolo import read_yolo

SET = PublishedSet(
    name="cr7_det",
    title="CR7-DET, cold-rolled steel strip",
    page="https://github.com/jsq0903/CR7-DET",
    licence="not stated",
    layout="lengzha/image/*.jpg and lengzha/label/*.txt (YOLO)",
    images=4140,
    read=read_yolo,
    options={
        "classes": ["inclusion", "dent", "oil_spot", "pit", "punching", "linear", "macular"],
    },
)

if __name__ == "__main__":
    main(SET)
