#!/usr/bin/env python
"""Prepares NEU-DET: python datasets/prepare_neu_det.py SOURCE_DIR"""

from detectron2_agssp.data.builtin import CLASSES
from detectron2_agssp.data.formats.sets import PublishedSet, main
from detectron2_agssp.data.formats.voc import read_voc

SET = PublishedSet(
    name="neu_det",
    title="NEU-DET, hot-rolled steel strip",
    page="http://faculty.neu.edu.cn/songkechen/zh_CN/zhym/263269/list/index.htm",
    licence="not stated",
    # The authors' IMAGES and ANNOTATIONS and Kaggle's train/images/<class> are both fine.
    layout="images (*.jpg) and Pascal VOC files (*.xml), in any folders",
    images=1800,
    read=read_voc,
    options={"classes": CLASSES["neu_det"], "one_based": True},
    any_part=True,
)

if __name__ == "__main__":
    main(SET)
