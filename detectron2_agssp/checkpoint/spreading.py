"""The class predictors of AGDP's one class as a start for the classes of a detector.

Detectron2 leaves out predictors whose shape does not fit, so fine-tuning begins with random ones
behind a pretrained head. AGDP's know already what is a defect and where it ends; only which defect
is open.
"""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from detectron2_agssp.io.files import atomic_write

# Faster, Mask and Cascade R-CNN (a number a stage); RetinaNet and FCOS.
_ROI_SCORES = re.compile(r"roi_heads\.box_predictor\.(\d+\.)?cls_score\.(weight|bias)")
_ROI_BOXES = re.compile(r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)")
_ROI_MASKS = re.compile(r"roi_heads\.mask_head\.predictor\.(weight|bias)")
_DENSE_SCORES = re.compile(r"head\.cls_score\.(weight|bias)")


def spread_classes(
    weights: dict[str, Tensor], num_classes: int, *, class_agnostic_boxes: bool = False
) -> dict[str, Tensor]:
    """Weights of a one-class detector for the same detector with ``num_classes`` classes.

    Each class starts with a copy of the one's predictor, and with 1 / ``num_classes`` of its odds:
    the probability of background does not change (softmax), nor the expected number of objects a
    cell (sigmoid, where it is small).

    Args:
        weights: of Faster, Mask or Cascade R-CNN, RetinaNet or FCOS, under Detectron2's names.
        num_classes: at least 1.
        class_agnostic_boxes: of a detector with ``MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG``: it
            keeps one box a proposal. (Cascade R-CNN always does.)

    Returns:
        All weights; those that do not depend on the classes are the given tensors.

    Raises:
        ValueError: fewer than 1 class, no class predictor, or one of several classes.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    is_roi = any(_ROI_SCORES.fullmatch(name) for name in weights)
    if not is_roi and not any(_DENSE_SCORES.fullmatch(name) for name in weights):
        raise ValueError(
            f"None of the {len(weights)} tensors is a class predictor of Faster, Mask or Cascade "
            "R-CNN (roi_heads.box_predictor), RetinaNet or FCOS (head.cls_score). Give weights "
            "of AGDP; one of AGBP has a backbone alone."
        )
    share = math.log(num_classes)
    spread = {}
    for name, tensor in weights.items():
        shift = share if name.endswith(".bias") else 0.0
        if _ROI_SCORES.fullmatch(name):
            _check_one_class(name, len(tensor) - 1)
            defect, background = tensor[:1], tensor[1:]
            tensor = torch.cat([_repeat(defect - shift, num_classes), background])
        elif _ROI_BOXES.fullmatch(name) and not class_agnostic_boxes:
            tensor = _repeat(tensor, num_classes)
        elif _ROI_MASKS.fullmatch(name):
            _check_one_class(name, len(tensor))
            tensor = _repeat(tensor, num_classes)
        elif _DENSE_SCORES.fullmatch(name) and not is_roi:
            # Rows are the classes of one anchor after the other.
            _check_one_class(name, len(tensor) / _num_anchors(weights))
            tensor = (tensor - shift).repeat_interleave(num_classes, dim=0)
        spread[name] = tensor
    return spread


def spread_checkpoint(
    source: str | Path, target: str | Path, num_classes: int, *, class_agnostic_boxes: bool = False
) -> Path:
    """Writes a checkpoint of AGDP for ``num_classes`` classes; see :func:`spread_classes`.

    Args:
        source: a checkpoint of AGDP, such as ``model_final.pth``.
        target: file to write, ``.pth``, which the fine-tuning's ``MODEL.WEIGHTS`` then names; this
            package need not be imported there. The optimizer's state is left out.

    Returns:
        ``target``.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: it is none of a one-class detector, or ``target`` has another suffix.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise FileNotFoundError(f"There is no checkpoint {str(source)!r}.")
    if target.suffix != ".pth":
        raise ValueError(f"The file to write must end in .pth, got {str(target)!r}.")
    content = torch.load(source, map_location="cpu", weights_only=True)
    if "model" not in content:
        raise ValueError(f"{source} is no checkpoint of Detectron2: it has no 'model'.")
    weights = spread_classes(
        content["model"], num_classes, class_agnostic_boxes=class_agnostic_boxes
    )
    with atomic_write(target, "wb") as file:
        torch.save({"model": weights}, file)
    return target


def _repeat(rows: Tensor, times: int) -> Tensor:
    return torch.cat([rows] * times)


def _num_anchors(weights: dict[str, Tensor]) -> int:
    return len(weights["head.bbox_pred.bias"]) // 4


def _check_one_class(name: str, classes: float) -> None:
    if classes != 1:
        raise ValueError(
            f"{name} is a predictor of {classes:g} classes; only that of one class can be spread. "
            "With AGSSP.BOXES.TYPES above 1 the types are not the classes."
        )
