#!/usr/bin/env python
"""Prepares AITEX: python datasets/prepare_aitex.py SOURCE_DIR"""

from detectron2_agssp.data.formats.masks import read_masks
from detectron2_agssp.data.formats.sets import PublishedSet, main

SET = PublishedSet(
    name="aitex",
    title="AITEX, fabric",
    page="https://www.kaggle.com/datasets/nexuswho/aitex-fabric-image-database",
    licence="not stated",
    layout=(
        "Defect_images, NODefect_images, Mask_images/*_mask.png; the second part of a "
        "name is the defect's code"
    ),
    images=245,
    read=read_masks,
    options={"class_of": lambda pair, mask: pair.image.stem.split("_")[1]},
)

if __name__ == "__main__":
    main(SET)
