#!/usr/bin/env python
"""Prepares KolektorSDD2: python datasets/prepare_kolektor_sdd2.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="kolektor_sdd2",
    title="KolektorSDD2, production items",
    page="https://www.vicos.si/resources/kolektorsdd2/",
    licence="CC BY-NC-SA 4.0",
    layout="train/N.png and train/N_GT.png, test alike",
    images=3335,
    read=read_masks,
    split="folders",
)

if __name__ == "__main__":
    main(SET)
