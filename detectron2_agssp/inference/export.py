"""A trained detector as a file that runs without PyTorch, or without Detectron2."""

import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from detectron2_agssp.inference.export_check import (
    Agreement,
    as_detector,
    check_images,
    compare,
)
from detectron2_agssp.inference.export_files import (
    check_opset,
    check_packages,
    check_place,
    format_of,
    load,
    publish,
    write,
)
from detectron2_agssp.inference.export_graph import OneImageGraph, exportable
from detectron2_agssp.inference.export_int8 import (
    Int8Agreement,
    calibration_inputs,
    compare_int8,
    quantize,
)
from detectron2_agssp.inference.run import open_run
from detectron2_agssp.io.files import user_path

logger = logging.getLogger(__name__)
OPSET = 17


def export_detector(
    run: str | Path,
    path: str | Path,
    *,
    images: str | Path | None = None,
    int8: str | Path | None = None,
    opset: int = OPSET,
    options: Sequence[str] = (),
) -> Agreement | Int8Agreement:
    """Writes a run's detector for ONNX, TorchScript or OpenVINO, and runs it there.

    The file appears once its runtime has found the detector's boxes in 20 images, to 1 pixel and
    0.001 of the score; in int8, four fifths of those that are shown, by class and an IoU of 0.5.
    What it takes and returns: ``docs/export.md``.

    Args:
        run: output folder of a training, or a weight file beside its ``config.yaml``.
        path: ends in ``.onnx`` or ``.ts``, or is a folder for OpenVINO; an earlier export there is
            replaced.
        images: folder of those that it is checked on; by default the run's validation images where
            they are registered, otherwise made-up ones.
        int8: folder of images, without labels, by which its convolutions are put into int8; ONNX
            and OpenVINO only. None: all is float32.
        opset: of ONNX.
        options: KEY VALUE pairs that override the run's config.

    Returns:
        What was compared.

    Raises:
        FileNotFoundError, ValueError: no such run, or one of no detector, or of one that has no
            export; an unknown suffix; an opset too old; boxes that differ.
        ImportError: a package that the format needs is missing.
    """
    path = user_path(path)
    _check_request(path, opset, int8)
    opened = open_run(run, [*options, "MODEL.DEVICE", "cpu"])
    agreement = export_model(
        opened.build_model(),
        opened.cfg,
        path,
        opened.classes,
        threshold=0.5 if opened.threshold is None else opened.threshold,
        images=images,
        int8=int8,
        opset=opset,
    )
    logger.info("Wrote %s: %s.", path, agreement)
    return agreement


def export_model(
    model: nn.Module,
    cfg: CfgNode,
    path: str | Path,
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
    images: str | Path | None = None,
    int8: str | Path | None = None,
    opset: int = OPSET,
) -> Agreement | Int8Agreement:
    """:func:`export_detector` of a built detector, on the CPU, in evaluation mode; ``threshold`` is
    the score from which its boxes are to be shown, in [0, 1]."""
    path = user_path(path)
    kind = _check_request(path, opset, int8)
    graph = exportable(model)
    description = describe(cfg, classes, threshold)
    rewrite = None if int8 is None else partial(quantize, inputs=calibration_inputs(cfg, int8))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".agssp-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        write(graph, temporary, kind, description, opset, rewrite)
        exported = as_detector(load(temporary, kind), cfg.INPUT.FORMAT)
        checked = check_images(cfg, images)
        agreement: Agreement | Int8Agreement
        if int8 is None:
            batch = not isinstance(graph, OneImageGraph)
            agreement = compare(model, exported, cfg, checked, batch=batch)
        else:
            agreement = compare_int8(model, exported, cfg, checked, classes, threshold)
        publish(temporary, path)
    return agreement


def describe(cfg: CfgNode, classes: Sequence[str], threshold: float) -> dict:
    """What a program needs to use an export, beside the export: see ``docs/export.md``."""
    return {
        "detector": cfg.MODEL.META_ARCHITECTURE,
        "classes": list(classes),
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "channels": "RGB",
        "threshold": threshold,
    }


def _check_request(path: Path, opset: int, int8: str | Path | None) -> str:
    kind = format_of(path)
    if kind != "torchscript":
        check_opset(opset)
    elif int8 is not None:
        raise ValueError(
            f"{path} is TorchScript, of which there is no int8 export: name a file that ends in "
            ".onnx, or a folder for OpenVINO."
        )
    # It is ONNX Runtime that finds the ranges, for OpenVINO, too.
    for needed in (kind, "onnx")[: 1 if int8 is None else 2]:
        check_packages(needed)
    check_place(path, kind)
    return kind
