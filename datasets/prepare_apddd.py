#!/usr/bin/env python
"""Prepares APDDD: python datasets/prepare_apddd.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main, read_unlabelled

SET = PublishedSet(
    name="apddd",
    title="APDDD, aluminium profiles of the Tianchi competition",
    page="https://tianchi.aliyun.com/dataset/148297",
    licence="competition rules",
    layout="a folder of images per class",
    images=1885,
    read=read_unlabelled,
    labelled=False,
)

if __name__ == "__main__":
    main(SET)
