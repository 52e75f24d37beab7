"""Whole OpenMMLab detectors under Detectron2's names: backbone, pyramid and heads.

``Faster R-CNN``
    mmdet's ``FasterRCNN`` with ``FPN`` (no norm, p6 by pooling), ``RPNHead`` and
    ``Shared2FCBBoxHead``, for Detectron2's ``GeneralizedRCNN`` with ``FPN`` and
    ``FastRCNNConvFCHead`` of two layers. Both order anchors, deltas and classes alike, the
    background last, and code boxes by the same standard deviations.
``YOLO``
    mmyolo's ``YOLODetector`` with ``YOLOv8PAFPN`` and ``YOLOv8Head``, for this package's
    :class:`~detectron2_agssp.modeling.YOLO` on a :class:`~detectron2_agssp.modeling.PAFPN`. Its box
    branch is narrower than the class branch (``AGSSP.YOLO.BOX_CHANNELS``).
``DINO``
    See :mod:`~detectron2_agssp.checkpoint.openmmlab_dino`.

The published AGSSP detectors are of these three.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detectron2_agssp.checkpoint.openmmlab import (
    Conversion,
    conv_names,
    convert_checkpoint,
    csp_layer_names,
    missing_parts,
    rename,
    tensors_of,
)
from detectron2_agssp.checkpoint.openmmlab_dino import DINO_NAMES, dino_settings, prepare_dino
from detectron2_agssp.utils.naming import some_of

# Of everything but the backbone and the data preprocessor.
_BESIDE_BACKBONE = ("neck.", "rpn_head.", "roi_head.", "bbox_head.")
_BESIDE_BACKBONE += ("encoder.", "decoder.", "level_embed", "query_embedding.", "memory_trans_")
_BESIDE_BACKBONE += ("dn_query_generator.",)
_BUFFERS = (".num_batches_tracked", ".proj")
_AFFINE = r"(weight|bias)"
_FASTER_RCNN_NAMES = [
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
    _FASTER_RCNN_NAMES += [
        (
            rf"neck\.{kind}_convs\.{_level}\.conv\.{_AFFINE}",
            rf"backbone.fpn_{ours}{_level + 2}.\1",
        )
        for kind, ours in (("lateral", "lateral"), ("fpn", "output"))
    ]
# mmyolo numbers its blocks in the order in which they run.
_YOLO_NAMES = [
    *csp_layer_names(r"neck\.top_down_layers\.0", "backbone.top_down4"),
    *csp_layer_names(r"neck\.top_down_layers\.1", "backbone.top_down3"),
    *csp_layer_names(r"neck\.bottom_up_layers\.0", "backbone.bottom_up4"),
    *csp_layer_names(r"neck\.bottom_up_layers\.1", "backbone.bottom_up5"),
    *conv_names(r"neck\.downsample_layers\.0", "backbone.down3"),
    *conv_names(r"neck\.downsample_layers\.1", "backbone.down4"),
]
for _kind, _subnet, _predictor in (
    ("cls", "cls_subnet", "cls_score"),
    ("reg", "box_subnet", "box_bins"),
):
    _branch = rf"bbox_head\.head_module\.{_kind}_preds\.(\d+)"
    _YOLO_NAMES += [
        *conv_names(rf"{_branch}\.([01])", rf"head.{_subnet}.\1.\2"),
        (rf"{_branch}\.2\.{_AFFINE}", rf"head.{_predictor}.\1.\2"),
    ]


@dataclass(frozen=True)
class DetectorLayout:
    """Names of one kind of detector.

    Attributes:
        marks: tensors that it has and no other.
        names: of all but the backbone, as in :mod:`~detectron2_agssp.checkpoint.openmmlab`.
        parts: modules of Detectron2's that such a file fills.
        backbone: prefix of the backbone's names.
        unused: parts of a backbone that such a detector does not have.
        prepare: of all but the backbone, before it is renamed.
    """

    marks: frozenset[str]
    names: list[tuple[str, str]]
    parts: tuple[str, ...]
    backbone: str = "backbone.bottom_up."
    unused: frozenset[str] = frozenset()
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors


FASTER_RCNN, YOLO, DINO = "Faster R-CNN", "YOLO", "DINO"
LAYOUTS = {
    FASTER_RCNN: DetectorLayout(
        frozenset(
            {
                "neck.lateral_convs.0.conv.weight",
                "rpn_head.rpn_cls.weight",
                "roi_head.bbox_head.fc_cls.weight",
            }
        ),
        _FASTER_RCNN_NAMES,
        tuple(f"backbone.fpn_{kind}{i}" for kind in ("lateral", "output") for i in range(2, 6)),
    ),
    YOLO: DetectorLayout(
        frozenset(
            {
                "neck.top_down_layers.0.main_conv.conv.weight",
                "bbox_head.head_module.cls_preds.0.2.weight",
            }
        ),
        _YOLO_NAMES,
        tuple(f"head.{name}.{i}" for name in ("cls_score", "box_bins") for i in range(3)),
    ),
    DINO: DetectorLayout(
        frozenset(
            {
                "neck.extra_convs.0.gn.weight",
                "memory_trans_fc.weight",
                "decoder.ref_point_head.layers.0.weight",
                "dn_query_generator.label_embedding.weight",
            }
        ),
        DINO_NAMES,
        (
            "tokenizer.projections",
            *(f"transformer.{part}" for part in ("encoder", "decoder", "class_branches.0")),
        ),
        backbone="backbone.",
        # Its levels begin at stride 8.
        unused=frozenset({"norm0"}),
        prepare=prepare_dino,
    ),
}


def detector_of(checkpoint: Mapping[str, Any]) -> str:
    """The name in ``LAYOUTS`` of the detector that an OpenMMLab checkpoint holds; "" for none."""
    names = tensors_of(checkpoint).keys()
    return next((kind for kind, layout in LAYOUTS.items() if layout.marks <= names), "")


def convert_detector(checkpoint: Mapping[str, Any]) -> Conversion:
    """All of a detector, for ``MODEL.WEIGHTS`` of the same one with as many classes.

    Args:
        checkpoint: as :func:`~detectron2_agssp.checkpoint.convert_openmmlab` takes it.

    Returns:
        ``weights`` under the full names of a detector (``backbone.bottom_up...``, of a DINO
        ``backbone...``).

    Raises:
        ValueError: no detector of ``LAYOUTS``, or a part of it that ours has not, by name.
    """
    tensors = tensors_of(checkpoint)
    kind = detector_of(tensors)
    if not kind:
        raise ValueError(
            "This is no OpenMMLab Faster R-CNN (neck.lateral_convs, rpn_head.rpn_cls, "
            "roi_head.bbox_head.fc_cls), YOLOv8 (neck.top_down_layers, "
            "bbox_head.head_module.cls_preds) or DINO (neck.extra_convs, memory_trans_fc, "
            f"dn_query_generator). Keys: {some_of(tensors, 10)}"
        )
    layout, backbone = LAYOUTS[kind], convert_checkpoint(tensors)
    beside = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(_BESIDE_BACKBONE) and not name.endswith(_BUFFERS)
    }
    heads = rename(layout.prepare(beside), layout.names)
    return Conversion(
        f"{backbone.backbone} {kind}",
        {f"{layout.backbone}{name}": tensor for name, tensor in backbone.weights.items()} | heads,
        [name for name in backbone.left_out if name not in beside],
        [f"{layout.backbone}{part}" for part in backbone.missing if part not in layout.unused]
        + missing_parts(heads, layout.parts),
    )


def settings_of(kind: str, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """What a converted detector's weights tell of its config: of "neck" and "heads", key ->
    value."""
    if kind == DINO:
        return {"heads": dino_settings(weights)}
    if kind != YOLO:
        return {}

    def width(name: str) -> int:
        return len(weights[f"{name}.conv.weight"])

    blocks = ("top_down3", "bottom_up4", "bottom_up5")
    return {
        "neck": {"AGSSP.PAFPN.OUT_CHANNELS": [width(f"backbone.{block}.fuse") for block in blocks]},
        "heads": {
            "AGSSP.YOLO.NUM_BINS": len(weights["head.box_bins.0.weight"]) // 4,
            "AGSSP.YOLO.HEAD_CHANNELS": width("head.cls_subnet.0.1"),
            "AGSSP.YOLO.BOX_CHANNELS": width("head.box_subnet.0.1"),
        },
    }
