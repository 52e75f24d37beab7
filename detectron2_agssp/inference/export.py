"""A trained detector as a file that runs without PyTorch, or without Detectron2."""

import logging
import tempfile
from collections.abc import Sequence
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
from detectron2_agssp.inference.run import open_run
from detectron2_agssp.io.files import user_path

logger = logging.getLogger(__name__)
OPSET = 17


def export_detector(
    run: str | Path,
    path: str | Path,
    *,
    images: str | Path | None = None,
    opset: int = OPSET,
    options: Sequence[str] = (),
) -> Agreement:
    """Writes a run's detector for ONNX, TorchScript or OpenVINO, and runs it there.

    The file appears once its runtime has found the detector's boxes in 20 images, to 1 pixel and
    0.001 of the score. What it takes and returns: ``docs/export.md``.

    Args:
        run: output folder of a training, or a weight file beside its ``config.yaml``.
        path: ends in ``.onnx`` or ``.ts``, or is a folder for OpenVINO; an earlier export there is
            replaced.
        images: folder of those that it is checked on; by default the run's validation images where
            they are registered, otherwise made-up ones.
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
    _check_request(path, opset)
    opened = open_run(run, [*options, "MODEL.DEVICE", "cpu"])
    agreement = export_model(
        opened.build_model(),
        opened.cfg,
        path,
        opened.classes,
        threshold=0.5 if opened.threshold is None else opened.threshold,
        images=images,
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
    opset: int = OPSET,
) -> Agreement:
    """:func:`export_detector` of a built detector, on the CPU, in evaluation mode; ``threshold`` is
    the score from which its boxes are to be shown, in [0, 1]."""
    path = user_path(path)
    kind = _check_request(path, opset)
    graph = exportable(model)
    description = describe(cfg, classes, threshold)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".agssp-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        write(graph, temporary, kind, description, opset)
        agreement = compare(
            model,
            as_detector(load(temporary, kind), cfg.INPUT.FORMAT),
            cfg,
            check_images(cfg, images),
            batch=not isinstance(graph, OneImageGraph),
        )
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


def _check_request(path: Path, opset: int) -> str:
    kind = format_of(path)
    if kind != "torchscript":
        check_opset(opset)
    check_packages(kind)
    check_place(path, kind)
    return kind
