#!/usr/bin/env python
"""Prepares NEU-DET for Detectron2: python datasets/prepare_neu_det.py SOURCE_DIR

SOURCE_DIR is the unpacked data set: images (*.jpg) and Pascal VOC files (*.xml), in any folders.
datasets/README.md says where to get it and what comes out.
"""

from pathlib import Path

from detectron2_agssp.data.builtin import CLASSES
from detectron2_agssp.data.formats.cli import build_parser, run
from detectron2_agssp.data.formats.pairing import Source
from detectron2_agssp.data.formats.pipeline import prepare_dataset
from detectron2_agssp.data.formats.records import Labels
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.data.formats.voc import read_voc


def prepare_neu_det(source: str | Path, output: str | Path | None = None, **options) -> Report:
    """Prepares NEU-DET; arguments, result and errors as of ``prepare_dataset``. The authors'
    ``IMAGES`` and ``ANNOTATIONS`` and Kaggle's ``train/images/<class>`` are both fine."""
    classes = CLASSES["neu_det"]

    def read(folder: Source) -> Labels:
        return read_voc(folder, classes, one_based=True)

    return prepare_dataset("neu_det", classes, read, source, output=output, **options)


if __name__ == "__main__":
    run(prepare_neu_det, build_parser(__doc__, "neu_det"))
