#!/usr/bin/env python
"""Prepares KolektorSDD: python datasets/prepare_kolektor_sdd.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="kolektor_sdd",
    title="KolektorSDD, commutators",
    page="https://www.vicos.si/resources/kolektorsdd/",
    licence="CC BY-NC-SA 4.0",
    layout="kosNN/PartK.jpg and kosNN/PartK_label.bmp",
    images=399,
    read=read_masks,
)

if __name__ == "__main__":
    main(SET)
