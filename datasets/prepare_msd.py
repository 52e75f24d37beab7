#!/usr/bin/env python
"""Prepares MSD-Cls: python datasets/prepare_msd.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main, read_unlabelled

SET = PublishedSet(
    name="msd",
    title="MSD-Cls, metal surfaces for few-shot classification",
    page="https://github.com/successhaha/GTnet",
    licence="not stated",
    layout="a folder of images per class",
    images=776,
    read=read_unlabelled,
    labelled=False,
)

if __name__ == "__main__":
    main(SET)
