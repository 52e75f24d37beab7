"""Weights of OpenMMLab backbones (mmdet, mmpretrain, mmcls) under Detectron2's names.

Two layouts are read, and told apart by their names:

``swin``
    ``SwinTransformer`` (also as SimMIM leaves it) of mmdet, mmpretrain and mmcls, for
    ``detectron2.modeling.backbone.swin.SwinTransformer``. The libraries share names and tensor
    layouts, except that early mmcls files call the last norm ``norm``. The one tensor layout that
    is not Detectron2's is the patch merging, see `_unfold_to_slice_order`.
``resnet``
    ``ResNet`` of mmdet and mmpretrain with the plain 7x7 stem, basic or bottleneck blocks, for
    ``detectron2.modeling.backbone.resnet.ResNet``. Frozen and trainable batch norm share names.

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


@dataclass(frozen=True)
class Conversion:
    """A converted backbone.

    Attributes:
        backbone: the layout found, ``"swin"`` or ``"resnet"``.
        weights: Detectron2's bare backbone name -> tensor. Tensors that need no reordering share
            memory with the input.
        left_out: the input's names that were left out on purpose: what is not the backbone, and
            bookkeeping buffers.
    """

    backbone: str
    weights: dict[str, Tensor]
    left_out: list[str]


def convert_openmmlab(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename and reorder an OpenMMLab backbone for Detectron2.

    Args:
        state_dict: name -> tensor, or a checkpoint that holds this under ``"state_dict"``. (With
            an EMA hook, mmengine stores the averaged weights there.) Names may carry
            ``backbone.`` or ``module.backbone.``; then everything else is left out. Without it,
            necks, heads and the data preprocessor are.

    Returns:
        What ``backbone.state_dict()`` of Detectron2's own Swin or ResNet holds, ready for a strict
        load. A Swin has only the output norms of the input: a classifier usually has ``norm3``
        alone, so ``norm0`` to ``norm2`` of a detector keep their initial values.

    Raises:
        ValueError: neither layout is recognised, the backbone has names that the layout does not
            know (for example a deep stem, SwinV2, deformable convolutions), or a Swin tensor
            cannot mean the same in Detectron2. The message names the keys.
    """
    return convert_checkpoint(state_dict).weights


def convert_checkpoint(checkpoint: Mapping[str, Any]) -> Conversion:
    """`convert_openmmlab` (same argument and errors), with what was found and what was left out."""
    tensors, left_out = _split_off_backbone(unwrap(checkpoint))
    if {"patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"} <= set(tensors):
        return Conversion("swin", _convert_swin(tensors), left_out)
    if "layer1.0.conv1.weight" in tensors:
        return Conversion("resnet", rename(tensors, RESNET_NAMES), left_out)
    raise ValueError(
        "This is neither an OpenMMLab Swin (patch_embed.projection, stages.0.blocks.0.attn.w_msa) "
        f"nor an OpenMMLab ResNet (layer1.0.conv1). Keys: {some_of([*tensors, *left_out], 10)}"
    )


def unwrap(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state dict of a checkpoint, or what is one already."""
    while isinstance(checkpoint, Mapping) and "state_dict" in checkpoint:
        checkpoint = checkpoint["state_dict"]
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"Expected a state dict, got {type(checkpoint).__name__}")
    return checkpoint


def _split_off_backbone(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the backbone under bare names, and the full names of everything else."""
    has_prefix = any(re.match(r"(module\.)?backbone\.", key) for key in state_dict)
    tensors, left_out = {}, []
    for key, tensor in state_dict.items():
        name = key.removeprefix("module.")
        if has_prefix:
            outside = not name.startswith("backbone.")
        else:
            outside = name.startswith(NON_BACKBONE_PREFIXES)
        # SimMIM's token is of its pretext task.
        if outside or name.endswith((*BOOKKEEPING_SUFFIXES, "mask_token")):
            left_out.append(key)
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
