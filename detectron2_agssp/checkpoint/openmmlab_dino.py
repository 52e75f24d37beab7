"""mmdet's ``DINO`` with ``ChannelMapper`` for :class:`~detectron2_agssp.modeling.DINO`.

Names and shapes are as in mmdet 3. Self attention of the decoder has queries, keys and values in
one tensor there, and in two here; a convolution before a norm has no bias there, and one of zeros
here.

Both put positions at the middle of cells where mmdet's ``positional_encoding`` has ``offset=-0.5``
and ``temperature=10000``, as the published AGSSP detector has; mmdet's own configs of DINO have 0
and 20, which no weight tells, and then detect worse here until they are trained on. Images are best
resized to multiples of 64 pixels: where a level's last cell is not full, the two call its middle a
place that differs by less than a cell.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_AFFINE = r"(weight|bias)"
_ATTENTION = {
    "sampling_offsets": "sampling_offsets",
    "attention_weights": "attention_weights",
    "value_proj": "value",
    "output_proj": "output",
}
_ENCODER, _DECODER = r"encoder\.layers\.(\d+)", r"decoder\.layers\.(\d+)"
_OUR_ENCODER, _OUR_DECODER = r"transformer.encoder.\1", r"transformer.decoder.\1"
# What `prepare_dino` leaves of self attention's one tensor.
_QUERY_KEY, _VALUE = "query_key", "value"

DINO_NAMES = [
    (rf"neck\.convs\.(\d+)\.conv\.{_AFFINE}", r"tokenizer.projections.\1.\2"),
    (rf"neck\.convs\.(\d+)\.gn\.{_AFFINE}", r"tokenizer.norms.\1.\2"),
    (r"level_embed", "tokenizer.level_embedding"),
    (r"query_embedding\.weight", "transformer.content.weight"),
    (rf"memory_trans_fc\.{_AFFINE}", r"transformer.choice.0.\1"),
    (rf"memory_trans_norm\.{_AFFINE}", r"transformer.choice.1.\1"),
    (rf"decoder\.ref_point_head\.layers\.0\.{_AFFINE}", r"transformer.position.0.\1"),
    (rf"decoder\.ref_point_head\.layers\.1\.{_AFFINE}", r"transformer.position.2.\1"),
    (rf"decoder\.norm\.{_AFFINE}", r"transformer.norm.\1"),
    (rf"bbox_head\.cls_branches\.(\d+)\.{_AFFINE}", r"transformer.class_branches.\1.\2"),
    (rf"bbox_head\.reg_branches\.(\d+)\.([024])\.{_AFFINE}", r"transformer.box_branches.\1.\2.\3"),
    (r"dn_query_generator\.label_embedding\.weight", "label_embedding.weight"),
    (
        rf"{_DECODER}\.self_attn\.attn\.({_QUERY_KEY}|{_VALUE})\.{_AFFINE}",
        rf"{_OUR_DECODER}.self_attention.\2.\3",
    ),
    (
        rf"{_DECODER}\.self_attn\.attn\.out_proj\.{_AFFINE}",
        rf"{_OUR_DECODER}.self_attention.output.\2",
    ),
]
for _theirs, _ours, _attention, _norms in (
    (_ENCODER, _OUR_ENCODER, "self_attn", ("norm", "feed_forward.norm")),
    (_DECODER, _OUR_DECODER, "cross_attn", ("self_attention.norm", "norm", "feed_forward.norm")),
):
    DINO_NAMES += [
        (rf"{_theirs}\.{_attention}\.{name}\.{_AFFINE}", rf"{_ours}.attention.{ours}.\2")
        for name, ours in _ATTENTION.items()
    ]
    DINO_NAMES += [
        (rf"{_theirs}\.norms\.{index}\.{_AFFINE}", rf"{_ours}.{norm}.\2")
        for index, norm in enumerate(_norms)
    ]
    DINO_NAMES += [
        (rf"{_theirs}\.ffn\.layers\.0\.0\.{_AFFINE}", rf"{_ours}.feed_forward.layers.0.\2"),
        (rf"{_theirs}\.ffn\.layers\.1\.{_AFFINE}", rf"{_ours}.feed_forward.layers.2.\2"),
    ]


def prepare_dino(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdet's tensors, in as many parts as ours, under names that ``DINO_NAMES`` knows: the further
    level numbered after the others, biases of zeros, self attention's projections in two.

    Args:
        tensors: of all but the backbone.
    """
    prepared: dict[str, Tensor] = {}
    levels = sum(
        name.startswith("neck.convs.") and name.endswith(".conv.weight") for name in tensors
    )
    for name, tensor in tensors.items():
        if name.startswith("neck.extra_convs.0."):
            name = name.replace("extra_convs.0", f"convs.{levels}")
        head, _, kind = name.rpartition(".in_proj_")
        if head:
            query_key, value = tensor.split([2 * len(tensor) // 3, len(tensor) // 3])
            prepared[f"{head}.{_QUERY_KEY}.{kind}"] = query_key
            prepared[f"{head}.{_VALUE}.{kind}"] = value
        else:
            prepared[name] = tensor
    for index in range(levels + 1):
        weight = prepared.get(f"neck.convs.{index}.conv.weight")
        if weight is not None:
            prepared.setdefault(f"neck.convs.{index}.conv.bias", torch.zeros(len(weight)))
    return prepared


def dino_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Config key -> value of what a converted detector's shapes tell."""

    def layers(part: str) -> int:
        return sum(
            name.startswith(f"transformer.{part}.") and name.endswith("attention.value.weight")
            for name in weights
            if ".self_attention." not in name
        )

    queries, dim = weights["transformer.content.weight"].shape
    return {
        "AGSSP.DINO.NUM_QUERIES": queries,
        "AGSSP.DINO.HIDDEN_DIM": dim,
        "AGSSP.DINO.FEEDFORWARD_DIM": len(
            weights["transformer.decoder.0.feed_forward.layers.0.weight"]
        ),
        "AGSSP.DINO.ENCODER_LAYERS": layers("encoder"),
        "AGSSP.DINO.DECODER_LAYERS": layers("decoder"),
    }
