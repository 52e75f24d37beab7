"""Exports whose convolutions compute in int8: how they are made, and what that costs."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances, pairwise_iou

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.evaluation.operating_point import DetectionEvaluator
from detectron2_agssp.inference.export_check import Detector
from detectron2_agssp.inference.export_files import imported
from detectron2_agssp.io.coco import class_names
from detectron2_agssp.io.images import ImageReader, list_images

logger = logging.getLogger(__name__)

# From which on the ranges of activations hardly grow.
NUM_IMAGES = 100
# A box of the detector is found again by one of its class that overlaps it so far.
MIN_IOU = 0.5
# Of the boxes that are shown, at least; below that the weights do not bear int8.
MIN_FOUND = 0.8
# Boxes that rounding puts below the threshold were found nevertheless.
SCORE_MARGIN = 0.1
# They leave their range to the convolution before them, and need none of their own.
_ACTIVATIONS = ("Clip", "Relu")


@dataclass(frozen=True)
class Int8Agreement:
    """Of an int8 export with its detector, by the boxes that are shown.

    Attributes:
        images: compared.
        threshold: score from which boxes are shown, in [0, 1].
        shown: of the detector and of the export, together.
        found: those of ``shown`` that the other one finds, too.
        data: name of the validation set; empty where there is none.
        ap_before: AP in percent of the detector on it; NaN where there is none.
        ap_after: of the export.
    """

    images: int
    threshold: float
    shown: int
    found: int
    data: str = ""
    ap_before: float = float("nan")
    ap_after: float = float("nan")

    def __str__(self) -> str:
        ap = (
            f"AP on {self.data} {self.ap_before:.1f} before, {self.ap_after:.1f} in int8"
            if self.data
            else "AP unknown, as the run has no validation set here"
        )
        return (
            f"in {self.images} images {100 * self.found / self.shown:.0f} % of the "
            f"{self.shown} boxes that either shows from a score of {self.threshold:.2f} on, by "
            f"class and an IoU of {MIN_IOU}; {ap}"
        )


def calibration_inputs(cfg: CfgNode, folder: str | Path) -> list[np.ndarray]:
    """At most NUM_IMAGES of a folder's images, evenly drawn, as an export takes them: (1, 3, h, w)
    uint8, RGB. Those that cannot be read are logged and left out.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no images in it that can be read.
    """
    names = list(list_images(folder))
    reader = ImageReader(cfg)
    inputs = []
    for name in names[:: max(-(-len(names) // NUM_IMAGES), 1)]:
        try:
            pixels = reader(Path(folder, name))
        except (OSError, ValueError) as error:
            logger.warning("Skipped %s: %s", name, error)
            continue
        image = model_input(cfg, pixels)["image"].numpy()
        inputs.append((image if cfg.INPUT.FORMAT == "RGB" else image[::-1].copy())[None])
    if not inputs:
        raise ValueError(f"{folder} holds no images that can be read, to calibrate int8 on.")
    return inputs


def quantize(path: Path, inputs: Sequence[np.ndarray]) -> None:
    """Rewrites an ONNX file so that its convolutions compute in int8; all else, as decoding and
    NMS, stays in float32.

    Weights have a range of their own for each output channel, activations one that all of
    ``inputs`` fit into.

    Args:
        path: of a float32 file.
        inputs: of :func:`calibration_inputs`.
    """
    onnx, quantization = imported("onnx"), imported("onnxruntime.quantization")
    prepare = imported("onnxruntime.quantization.shape_inference").quant_pre_process
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared = Path(folder, "prepared.onnx")
        # Folds what the exporter put between the convolutions and their biases.
        prepare(str(path), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            _Calibration(inputs),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Unsigned times signed is what processors multiply fast.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=_convolutions(onnx.load(prepared).graph.node),
        )


class _Calibration:
    """What ONNX Runtime asks for one input after the other."""

    def __init__(self, inputs: Iterable[np.ndarray]):
        self.inputs: Iterator[np.ndarray] = iter(inputs)

    def __iter__(self):
        return ({"images": images} for images in self.inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(iter(self), None)


def _convolutions(nodes) -> list[str]:
    """Names of the convolutions and of the activations right behind them."""
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    results = {node.output[0] for node in convolutions}
    activations = [n for n in nodes if n.op_type in _ACTIVATIONS and n.input[0] in results]
    return [node.name for node in (*convolutions, *activations)]


@torch.no_grad()
def compare_int8(
    detector: Detector,
    exported: Detector,
    cfg: CfgNode,
    images: Iterable[np.ndarray],
    classes: Sequence[str],
    threshold: float,
) -> Int8Agreement:
    """Runs a detector and its int8 export on the same images, and on the validation set where it
    is there.

    Args:
        detector: Detectron2's, on the CPU, in evaluation mode.
        exported: of ``export_check.as_detector``.
        cfg: of the detector.
        images: (H, W, 3) uint8 RGB.
        classes: their names.
        threshold: score from which boxes are shown, in [0, 1].

    Raises:
        ValueError: of the boxes shown, too few are found by both; or there are none.
    """
    count = shown = found = 0
    for image in images:
        count += 1
        inputs = [model_input(cfg, image)]
        ours, theirs = (found_by(inputs)[0]["instances"] for found_by in (exported, detector))
        for one, other in ((ours, theirs), (theirs, ours)):
            again = _found_again(one, other, threshold)
            shown, found = shown + len(again), found + int(again.sum())
    if not shown:
        raise ValueError(
            f"The detector finds nothing from a score of {threshold:.2f} on in {count} images, so "
            "its export cannot be checked. Name others, with defects (--images)."
        )
    if found < MIN_FOUND * shown:
        raise ValueError(
            f"The export is not written: in int8 it finds other boxes than the detector. Of "
            f"{shown} that either shows, both find {found}. Calibrate it on more images, of those "
            "that it is to look at; or export it in float32, without --int8."
        )
    data = _validation_set(cfg, classes)
    if not data:
        return Int8Agreement(count, threshold, shown, found)
    before, after = (_average_precision(cfg, model, data) for model in (detector, exported))
    return Int8Agreement(count, threshold, shown, found, data, before, after)


def _found_again(one: Instances, other: Instances, threshold: float) -> torch.Tensor:
    """Which of the boxes that ``one`` shows ``other`` has, too (K,) bool."""
    one, other = one[one.scores >= threshold], other[other.scores >= threshold - SCORE_MARGIN]
    same = pairwise_iou(one.pred_boxes, other.pred_boxes) >= MIN_IOU
    return (same & (one.pred_classes[:, None] == other.pred_classes)).any(dim=1)


def _validation_set(cfg: CfgNode, classes: Sequence[str]) -> str:
    """The first of DATASETS.TEST whose labels and images are on this machine; empty if none is."""
    for name in cfg.DATASETS.TEST:
        labels = MetadataCatalog.get(name).get("json_file", "") if name in DatasetCatalog else ""
        if labels and Path(labels).is_file() and (class_names(labels) or []) == list(classes):
            records = DatasetCatalog.get(name)
            if records and all(Path(record["file_name"]).is_file() for record in records):
                return name
    return ""


def _average_precision(cfg: CfgNode, detector: Detector, data: str) -> float:
    """In percent."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (data,)
    with tempfile.TemporaryDirectory() as folder:
        results = AGSSPTrainer.test(cfg, detector, [DetectionEvaluator(data, folder)])
    return results["bbox"]["AP"]
