#!/usr/bin/env python
"""Prepares DAGM 2007: python datasets/prepare_dagm2007.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="dagm2007",
    title="DAGM 2007, artificial textures",
    page=(
        "https://hci.iwr.uni-heidelberg.de/content/weakly-supervised-learning-industrial-optical-inspection"
    ),
    licence="unclear",
    layout=(
        "ClassN/{Train,Test}/*.PNG and ClassN/{Train,Test}/Label/*_label.PNG; Class1 to Class10"
    ),
    images=16100,
    read=read_masks,
    options={"class_of": lambda pair, mask: pair.file_name.split("/")[-3]},
    split="folders",
)

if __name__ == "__main__":
    main(SET)
