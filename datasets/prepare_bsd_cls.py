#!/usr/bin/env python
"""Prepares BSD for classification: python datasets/prepare_bsd_cls.py SOURCE_DIR"""

from detectron2_agssp.data.formats.sets import PublishedSet, main, read_unlabelled

SET = PublishedSet(
    name="bsd_cls",
    title="BSD for classification, ball screw drives: the images without pitting",
    page="https://publikationen.bibliothek.kit.edu/1000133819",
    licence="see page",
    layout="N_*.png (P_*.png have pitting and are left out)",
    images=(4913, 11075),
    read=read_unlabelled,
    options={"name": "N_"},
    labelled=False,
)

if __name__ == "__main__":
    main(SET)
