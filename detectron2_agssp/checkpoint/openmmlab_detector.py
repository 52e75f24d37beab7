"""Whole OpenMMLab Faster R-CNNs under Detectron2's names: backbone, pyramid, RPN and box head.

For mmdet's ``FasterRCNN`` with ``FPN`` (no norm, p6 by pooling), ``RPNHead`` and
``Shared2FCBBoxHead``, as the published AGSSP detectors are, and Detectron2's ``GeneralizedRCNN``
with ``FPN`` and ``FastRCNNConvFCHead`` of two layers. Both order anchors, deltas and classes alike,
the background last, and code boxes by the same standard deviations.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detectron2_agssp.checkpoint.openmmlab import (
    Conversion,
    convert_checkpoint,
    rename,
    unwrap,
)
from detectron2_agssp.utils.naming import some_of

_AFFINE = r"(weight|bias)"
HEAD_NAMES = [
    (rf"rpn_head\.rpn_conv\.{_AFFINE}", r"proposal_generator.rpn_head.conv.\1"),
    (rf"rpn_head\.rpn_cls\.{_AFFINE}", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (rf"rpn_head\.rpn_reg\.{_AFFINE}", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (rf"roi_head\.bbox_head\.shared_fcs\.0\.{_AFFINE}", r"roi_heads.box_head.fc1.\1"),
    (rf"roi_head\.bbox_head\.shared_fcs\.1\.{_AFFINE}", r"roi_heads.box_head.fc2.\1"),
    (rf"roi_head\.bbox_head\.fc_cls\.{_AFFINE}", r"roi_heads.box_predictor.cls_score.\1"),
    (rf"roi_head\.bbox_head\.fc_reg\.{_AFFINE}", r"roi_heads.box_predictor.bbox_pred.\1"),
]
# Level 0 of the neck is on res2.
for _level in range(4):
    HEAD_NAMES += [
        (
            rf"neck\.{kind}_convs\.{_level}\.conv\.{_AFFINE}",
            rf"backbone.fpn_{ours}{_level + 2}.\1",
        )
        for kind, ours in (("lateral", "lateral"), ("fpn", "output"))
    ]
_DETECTOR = re.compile(r"(neck|rpn_head|roi_head)\.")


def is_faster_rcnn(checkpoint: Mapping[str, Any]) -> bool:
    """Whether an OpenMMLab checkpoint holds neck, RPN and box head."""
    names = {name.removeprefix("module.") for name in unwrap(checkpoint)}
    return {"rpn_head.rpn_cls.weight", "roi_head.bbox_head.fc_cls.weight"} <= names and any(
        name.startswith("neck.lateral_convs.") for name in names
    )


def convert_faster_rcnn(checkpoint: Mapping[str, Any]) -> Conversion:
    """All of a Faster R-CNN, for ``MODEL.WEIGHTS`` of the same detector with as many classes.

    Args:
        checkpoint: as :func:`~detectron2_agssp.checkpoint.convert_openmmlab` takes it.

    Returns:
        ``weights`` under the full names of a detector (``backbone.bottom_up...``).

    Raises:
        ValueError: no Faster R-CNN, or a part of it that Detectron2's has not, by name.
    """
    if not is_faster_rcnn(checkpoint):
        raise ValueError(
            "This is no OpenMMLab Faster R-CNN (neck.lateral_convs, rpn_head.rpn_cls, "
            f"roi_head.bbox_head.fc_cls). Keys: {some_of(unwrap(checkpoint), 10)}"
        )
    backbone = convert_checkpoint(checkpoint)
    tensors: dict[str, Tensor] = {
        name.removeprefix("module."): tensor for name, tensor in unwrap(checkpoint).items()
    }
    heads = rename(
        {name: tensor for name, tensor in tensors.items() if _DETECTOR.match(name)}, HEAD_NAMES
    )
    weights = {f"backbone.bottom_up.{name}": t for name, t in backbone.weights.items()} | heads
    left_out = [
        name for name in backbone.left_out if not _DETECTOR.match(name.removeprefix("module."))
    ]
    return Conversion(f"{backbone.backbone} Faster R-CNN", weights, left_out)
