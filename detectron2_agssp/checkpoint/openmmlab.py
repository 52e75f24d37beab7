"""Weights of OpenMMLab backbones (mmdet, mmpretrain, mmcls, mmyolo) under Detectron2's names.

Three layouts are read, and told apart by their names:

``swin``
    ``SwinTransformer`` (also as SimMIM leaves it) of mmdet, mmpretrain and mmcls, for
    ``detectron2.modeling.backbone.swin.SwinTransformer``. The libraries share names and tensor
    layouts, except that early mmcls files call the last norm ``norm``. The one tensor layout that
    is not Detectron2's is the patch merging, see `_unfold_to_slice_order`.
``resnet``
    ``ResNet`` of mmdet and mmpretrain with the plain 7x7 stem, basic or bottleneck blocks, for
    ``detectron2.modeling.backbone.resnet.ResNet``. Frozen and trainable batch norm share names.
``cspdarknet``
    ``YOLOv8CSPDarknet`` of mmyolo, for :class:`~detectron2_agssp.modeling.CSPDarknet`. Those of
    YOLOv5 and YOLOX are made of other blocks and are refused.

What the weights alone cannot carry over has to be set in the Detectron2 configuration:

- Bottleneck ResNets: OpenMMLab's ``style="pytorch"`` (its default) strides in the 3x3 convolution
  and needs ``MODEL.RESNETS.STRIDE_IN_1X1: False``, which is not Detectron2's default.
  ``style="caffe"`` needs ``True``. No weight tells the two apart.
- Input: most OpenMMLab models want RGB (``INPUT.FORMAT``) and their own ``MODEL.PIXEL_MEAN`` and
  ``MODEL.PIXEL_STD``.
- Swin: the window size, depths and widths. Where the shorter side of a feature map is exactly one
  window, mmpretrain does not shift the windows (``pad_small_map=False``), while mmdet and
  Detectron2 always do. Larger maps are treated alike.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detectron2_agssp.io.weight_files import state_dict_of
from detectron2_agssp.utils.naming import some_of

# What stands beside the backbone in a file whose names have no `backbone.` prefix.
NON_BACKBONE_PREFIXES = (
    "data_preprocessor.",
    "neck.",
    "head.",
    "bbox_head.",
    "mask_head.",
    "rpn_head.",
    "roi_head.",
)

# Buffers that Detectron2 recomputes (the shift mask of early mmcls) or does not need.
BOOKKEEPING_SUFFIXES = (".num_batches_tracked", ".attn_mask")

# (pattern of the whole OpenMMLab name, Detectron2's name)
_AFFINE = r"(weight|bias)"
_SWIN_BLOCK, _D2_SWIN_BLOCK = r"stages\.(\d+)\.blocks\.(\d+)", r"layers.\1.blocks.\2"
SWIN_NAMES = (
    (rf"patch_embed\.projection\.{_AFFINE}", r"patch_embed.proj.\1"),
    (rf"patch_embed\.norm\.{_AFFINE}", r"patch_embed.norm.\1"),
    (rf"{_SWIN_BLOCK}\.norm([12])\.{_AFFINE}", rf"{_D2_SWIN_BLOCK}.norm\3.\4"),
    (rf"{_SWIN_BLOCK}\.attn\.w_msa\.(qkv|proj)\.{_AFFINE}", rf"{_D2_SWIN_BLOCK}.attn.\3.\4"),
    (
        rf"{_SWIN_BLOCK}\.attn\.w_msa\.relative_position_(bias_table|index)",
        rf"{_D2_SWIN_BLOCK}.attn.relative_position_\3",
    ),
    (rf"{_SWIN_BLOCK}\.ffn\.layers\.0\.0\.{_AFFINE}", rf"{_D2_SWIN_BLOCK}.mlp.fc1.\3"),
    (rf"{_SWIN_BLOCK}\.ffn\.layers\.1\.{_AFFINE}", rf"{_D2_SWIN_BLOCK}.mlp.fc2.\3"),
    (rf"stages\.(\d+)\.downsample\.norm\.{_AFFINE}", r"layers.\1.downsample.norm.\2"),
    (r"stages\.(\d+)\.downsample\.reduction\.weight", r"layers.\1.downsample.reduction.weight"),
    (rf"norm(\d)\.{_AFFINE}", r"norm\1.\2"),
)

_BATCH_NORM = r"(weight|bias|running_mean|running_var)"


def conv_names(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Of a convolution with batch norm; patterns as in the other tables."""
    last = re.compile(theirs).groups + 1
    return [
        (rf"{theirs}\.conv\.weight", rf"{ours}.conv.weight"),
        (rf"{theirs}\.bn\.{_BATCH_NORM}", rf"{ours}.norm.\{last}"),
    ]


def csp_layer_names(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Of a split-and-concatenate block (mmyolo's ``CSPLayerWithTwoConv``)."""
    steps = rf"{ours}.steps.\{re.compile(theirs).groups + 1}"
    return [
        *conv_names(rf"{theirs}\.main_conv", f"{ours}.split"),
        *conv_names(rf"{theirs}\.blocks\.(\d+)\.conv1", f"{steps}.first"),
        *conv_names(rf"{theirs}\.blocks\.(\d+)\.conv2", f"{steps}.second"),
        *conv_names(rf"{theirs}\.final_conv", f"{ours}.fuse"),
    ]


CSPDARKNET_NAMES = conv_names("stem", "stem")
for _stage in (1, 2, 3, 4):
    CSPDARKNET_NAMES += conv_names(rf"stage{_stage}\.0", f"res{_stage + 1}.0")
    CSPDARKNET_NAMES += csp_layer_names(rf"stage{_stage}\.1", f"res{_stage + 1}.1")
CSPDARKNET_NAMES += conv_names(r"stage4\.2\.conv1", "res5.2.reduce")
CSPDARKNET_NAMES += conv_names(r"stage4\.2\.conv2", "res5.2.fuse")

RESNET_NAMES = [
    (r"conv1\.weight", "stem.conv1.weight"),
    (rf"bn1\.{_BATCH_NORM}", r"stem.conv1.norm.\1"),
]
for _stage in (1, 2, 3, 4):
    _block, _d2_block = rf"layer{_stage}\.(\d+)", rf"res{_stage + 1}.\1"
    RESNET_NAMES += [
        (rf"{_block}\.conv([123])\.weight", rf"{_d2_block}.conv\2.weight"),
        (rf"{_block}\.bn([123])\.{_BATCH_NORM}", rf"{_d2_block}.conv\2.norm.\3"),
        (rf"{_block}\.downsample\.0\.weight", rf"{_d2_block}.shortcut.weight"),
        (rf"{_block}\.downsample\.1\.{_BATCH_NORM}", rf"{_d2_block}.shortcut.norm.\2"),
    ]

# What a backbone of each layout has, by Detectron2's names.
_RESNET_PARTS = ("stem", "res2", "res3", "res4", "res5")
PARTS = {
    "swin": ("patch_embed", *(f"{part}{i}" for part in ("layers.", "norm") for i in range(4))),
    "resnet": _RESNET_PARTS,
    "cspdarknet": _RESNET_PARTS,
}


@dataclass(frozen=True)
class Conversion:
    """A converted backbone.

    Attributes:
        backbone: the layout found, a name of ``PARTS``.
        weights: Detectron2's bare backbone name -> tensor, float32. Tensors that need no change
            share memory with the input.
        left_out: the input's names that were left out on purpose: what is not the backbone, and
            bookkeeping buffers.
        missing: parts of such a backbone that the input has nothing of; they stay as they are
            initialised.
    """

    backbone: str
    weights: dict[str, Tensor]
    left_out: list[str]
    missing: list[str]


def convert_openmmlab(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename and reorder an OpenMMLab backbone for Detectron2.

    Args:
        state_dict: name -> tensor, or a checkpoint that holds this, as
            :func:`~detectron2_agssp.io.weight_files.state_dict_of` finds it. (With an EMA hook,
            mmengine stores the averaged weights under ``"state_dict"``.) Names may carry
            ``backbone.`` or ``module.backbone.``; then everything else is left out. Without it,
            necks, heads and the data preprocessor are. Half precision becomes float32.

    Returns:
        What ``backbone.state_dict()`` of Detectron2's own Swin or ResNet, or of this package's
        CSPDarknet, holds, ready for a strict load. A Swin has only the output norms of the input: a
        classifier usually has ``norm3`` alone, so ``norm0`` to ``norm2`` of a detector keep their
        initial values.

    Raises:
        ValueError: no layout is recognised, the backbone has names that the layout does not
            know (for example a deep stem, SwinV2, deformable convolutions), or a Swin tensor
            cannot mean the same in Detectron2. The message names the keys.
    """
    return convert_checkpoint(state_dict).weights


def convert_checkpoint(checkpoint: Mapping[str, Any]) -> Conversion:
    """`convert_openmmlab` (same argument and errors), with what was found and what was left out."""
    tensors, left_out = _split_off_backbone(tensors_of(checkpoint))
    layout = _layout_of(tensors, left_out)
    if layout == "swin":
        weights = _convert_swin(tensors)
    else:
        weights = rename(tensors, RESNET_NAMES if layout == "resnet" else CSPDARKNET_NAMES)
    return Conversion(layout, weights, left_out, missing_parts(weights, PARTS[layout]))


def _layout_of(tensors: Mapping[str, Tensor], left_out: Sequence[str]) -> str:
    if any(".short_conv." in name for name in tensors):
        raise ValueError(
            "This CSPDarknet has a second branch in its blocks (short_conv), as YOLOv5's and "
            "YOLOX's have: only YOLOv8's has a counterpart here. Pretrain CSPDarknet by AGBP, or "
            "take a ResNet or Swin."
        )
    if {"patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"} <= set(tensors):
        return "swin"
    if "layer1.0.conv1.weight" in tensors:
        return "resnet"
    if "stage1.1.main_conv.conv.weight" in tensors:
        return "cspdarknet"
    raise ValueError(
        "This is no OpenMMLab Swin (patch_embed.projection, stages.0.blocks.0.attn.w_msa), ResNet "
        "(layer1.0.conv1) or CSPDarknet (stage1.1.main_conv). Keys: "
        f"{some_of([*tensors, *left_out], 10)}"
    )


def missing_parts(weights: Mapping[str, Tensor], parts: Sequence[str]) -> list[str]:
    """Which of the modules ``parts`` have no tensor."""
    return [part for part in parts if not any(name.startswith(f"{part}.") for name in weights)]


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Bare name -> float32 tensor of a checkpoint, or of what is a state dict already."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state_dict_of(checkpoint, "The checkpoint").items()
        if isinstance(tensor, Tensor)
    }


def _split_off_backbone(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the backbone under bare names, and the full names of everything else."""
    has_prefix = any(name.startswith("backbone.") for name in state_dict)
    tensors, left_out = {}, []
    for name, tensor in state_dict.items():
        if has_prefix:
            outside = not name.startswith("backbone.")
        else:
            outside = name.startswith(NON_BACKBONE_PREFIXES)
        # SimMIM's token is of its pretext task.
        if outside or name.endswith((*BOOKKEEPING_SUFFIXES, "mask_token")):
            left_out.append(name)
        else:
            tensors[name.removeprefix("backbone.")] = tensor
    return tensors, left_out


def rename(tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """The tensors under the names that ``names`` (pattern, target) give theirs; a ValueError names
    those without."""
    renamed, unknown = {}, []
    for key, tensor in tensors.items():
        matches = ((re.fullmatch(pattern, key), target) for pattern, target in names)
        new_key = next((match.expand(target) for match, target in matches if match), None)
        if new_key is None:
            unknown.append(key)
        else:
            renamed[new_key] = tensor
    if unknown:
        raise ValueError(f"No counterpart in Detectron2 for: {some_of(unknown, 10)}")
    return renamed


def _convert_swin(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    last_stage = max(int(key.split(".")[1]) for key in tensors if key.startswith("stages."))
    # Early mmcls has one output norm, after the last stage.
    tensors = {re.sub(r"^norm\.", f"norm{last_stage}.", key): t for key, t in tensors.items()}
    weights = rename(tensors, SWIN_NAMES)
    _check_swin_widths(weights, stages=last_stage + 1)
    for key, tensor in weights.items():
        if key.endswith(".relative_position_index"):
            _check_relative_position_index(key, tensor)
        elif ".downsample." in key:
            weights[key] = _unfold_to_slice_order(tensor)
    return weights


def _check_swin_widths(weights: Mapping[str, Tensor], stages: int) -> None:
    """Two options of mmpretrain keep the names but change the shapes: ``out_after_downsample``
    (output norms of the next stage's width) and ``downsample_cfg`` (other than 2x2 merging)."""
    embed_dim = len(weights["patch_embed.proj.weight"])
    for stage in range(stages):
        width = embed_dim * 2**stage
        expected = {
            f"norm{stage}.weight": width,
            f"layers.{stage}.downsample.norm.weight": 4 * width,
        }
        for key, channels in expected.items():
            if key in weights and len(weights[key]) != channels:
                raise ValueError(
                    f"{key} has {len(weights[key])} channels where Detectron2's Swin has {channels}"
                )


def _check_relative_position_index(key: str, index: Tensor) -> None:
    """The bias table is taken as it is, which is right only if both sides index it alike: row
    ``(dy + w - 1) * (2w - 1) + (dx + w - 1)`` for the offset (dy, dx) from key to query.

    Args:
        index: shape (w * w, w * w) for a window of w x w.
    """
    window = round(len(index) ** 0.5)
    y = torch.arange(window).repeat_interleave(window)
    x = torch.arange(window).repeat(window)
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    expected = (dy + window - 1) * (2 * window - 1) + (dx + window - 1)
    if not torch.equal(index.cpu(), expected):
        raise ValueError(f"{key} is not in Detectron2's order of relative positions")


def _unfold_to_slice_order(tensor: Tensor) -> Tensor:
    """Reorder the input channels of a patch merging, the last dimension: shape (..., 4 * C).

    OpenMMLab gathers the 2x2 neighbours with ``nn.Unfold``: channel first, then row, then column.
    Detectron2 concatenates the slices (row, column) = (0, 0), (1, 0), (0, 1), (1, 1): column
    first, then row, then channel.
    """
    channel_row_column = tensor.unflatten(-1, (-1, 2, 2))
    return channel_row_column.transpose(-1, -3).flatten(-3)
