"""Which of a model's tensors a file covers, by backbone, neck and heads, and what it has beyond.

Names and shapes alone decide. A share is not enough: a ResNet-101's file covers all of a ResNet-50
and has 17 blocks more, so blocks that only one side has are looked for by name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from detectron2_agssp.modeling.teacher import TRAINING_STATE
from detectron2_agssp.utils.naming import some_of

# Share of the backbone's tensors that weights must cover.
MIN_COVERAGE = 0.9
# Recomputed while building, or without meaning in another run.
BOOKKEEPING = ("num_batches_tracked", "relative_position_index", "attn_mask")
RUNNING_STATISTICS = ("running_mean", "running_var")
# Beside the blocks, and without harm: tokens of pretraining; what Detectron2's converted ImageNet
# files have in the stem (torchvision's classifier, a bias that the norm after it takes out).
EXPECTED_LEFT_OVER = ("mask_token", "cls_token", "dist_token", "stem.fc", "stem.conv1.bias")
# Not weights: they come from the config.
SETTINGS_IN_STATE = ("pixel_mean", "pixel_std", "agssp_input_is_bgr")
# Names in messages: at most so many, one per line.
_LINES = (20, "\n  ")


class BackboneCoverageError(ValueError):
    """Weights that do not fit the model's backbone."""


def bottom_up_of(backbone: nn.Module) -> nn.Module:
    """The backbone proper, below a feature pyramid (``bottom_up``; ``net`` in ViTDet's)."""
    from detectron2.modeling.backbone.vit import SimpleFeaturePyramid

    if isinstance(backbone, SimpleFeaturePyramid):
        return backbone.net
    return getattr(backbone, "bottom_up", backbone)


def bottom_up_prefix(model: nn.Module) -> str:
    """Of the names in a model, or in a model that is a backbone: "backbone.bottom_up.", ..., ""."""
    bottom_up = bottom_up_of(getattr(model, "backbone", model))
    path = next(name for name, module in model.named_modules() if module is bottom_up)
    return f"{path}." if path else ""


def bare_backbone(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The backbone's part of a model's weights, under bare names (``stem.conv1.weight``).

    Args:
        weights: of a model, or of a backbone alone.
        prefix: of :func:`bottom_up_prefix`.
    """
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        # Batches seen: means nothing in another training run.
        if name.startswith(prefix) and not name.endswith("num_batches_tracked")
    }


@dataclass(frozen=True)
class PartCoverage:
    """Of one part of a model.

    Attributes:
        expected: full name -> the model's tensor.
        missing: names of which the file has no tensor, or one of another shape.
    """

    expected: dict[str, Tensor]
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        return 1 - len(self.missing) / len(self.expected) if self.expected else 0.0

    def __str__(self) -> str:
        return f"{len(self.expected) - len(self.missing)} of {len(self.expected)} tensors"


def coverage_of(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, PartCoverage]:
    """Of "backbone", "neck" and "heads"; a part that the model lacks expects nothing.

    Args:
        weights: name -> tensor, under the model's names.
    """
    prefix = bottom_up_prefix(model)
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "neck": {}, "heads": {}}
    no_statistics = _makes_statistics_up(model, weights)
    # Not from what load_state_dict calls missing: FrozenBatchNorm2d makes statistics up.
    for name, tensor in model.state_dict().items():
        if name.endswith(BOOKKEEPING) or name in SETTINGS_IN_STATE:
            continue
        if name.startswith(TRAINING_STATE):
            continue
        if no_statistics and name.endswith(RUNNING_STATISTICS):
            continue
        if name.startswith(prefix):
            parts["backbone"][name] = tensor
        else:
            parts["neck" if name.startswith("backbone.") else "heads"][name] = tensor
    return {
        part: PartCoverage(
            tensors,
            tuple(
                name
                for name, tensor in tensors.items()
                if name not in weights or weights[name].shape != tensor.shape
            ),
        )
        for part, tensors in parts.items()
    }


def _makes_statistics_up(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Files of the Caffe2 era have folded them into the affine; then the norm starts with 0, 1."""
    frozen = any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    return frozen and not any(name.endswith(RUNNING_STATISTICS) for name in weights)


def check_backbone(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    complete: bool = False,
    same_model: bool = False,
    advice: str = "",
) -> dict[str, PartCoverage]:
    """Raises unless the weights are those of this backbone; returns :func:`coverage_of`.

    Args:
        weights: name -> tensor, under the model's names; those that found no place in the model
            may have bare ones.
        source: of the weights, for the message.
        complete: nothing random may remain in backbone and neck. (What starts as one number
            everywhere, as norms and biases do, is left out by some files, and harms nothing.)
        same_model: the file is known to be of the same architecture: what it has beyond the
            model are stages that the model does not use.
        advice: last sentences of the message.

    Raises:
        BackboneCoverageError: under ``MIN_COVERAGE`` of the backbone, a tensor of another shape, a
            block of the model that the file lacks, or one of the file that the model lacks.
    """
    parts = coverage_of(model, weights)
    backbone = parts["backbone"]
    kind = type(model).__name__
    if backbone.share < MIN_COVERAGE:
        raise BackboneCoverageError(
            f"{source} ({len(weights)} tensors) cover {backbone.share:.0%} of the "
            f"{len(backbone.expected)} backbone tensors of {kind}; at least "
            f"{MIN_COVERAGE:.0%} is required, because a detector that starts from a half-filled "
            f"backbone looks like one that was pretrained. Use weights of the same backbone. "
            f"{advice}Missing:\n  {some_of(backbone.missing, *_LINES)}"
        )
    prefix = bottom_up_prefix(model)
    misfits = _misfits(backbone, weights, prefix)
    if misfits:
        raise BackboneCoverageError(
            f"{source} have tensors of other shapes than the backbone of {kind}, which would stay "
            f"random: use weights of the same backbone, or its settings. {_window(misfits)}{advice}"
            f"Other shapes:\n  {some_of(misfits.values(), *_LINES)}"
        )
    own = {name.removeprefix(prefix) for name in backbone.expected}
    filled = {name.removeprefix(prefix) for name in backbone.expected if name in weights}
    lacking = sorted(group for group in _groups(own, filled) if _has_blocks(group, own))
    if lacking:
        raise BackboneCoverageError(
            f"{source} lack blocks that the backbone of {kind} has, which would stay random: use "
            f"weights of the same backbone. {advice}Missing:\n  {some_of(lacking, *_LINES)}"
        )
    beyond = () if same_model else left_over_blocks(model, weights)
    if beyond:
        raise BackboneCoverageError(
            f"{source} have more than the backbone of {kind}: they are of another, deeper or wider "
            "one, and what is left over would be dropped. Use weights of the same backbone, or the "
            f"backbone of these weights. {advice}Left over:\n  {some_of(beyond, *_LINES)}"
        )
    if complete:
        random = [
            name
            for part in ("backbone", "neck")
            for name in parts[part].missing
            if parts[part].expected[name].unique().numel() > 1
        ]
        if random:
            raise BackboneCoverageError(
                f"{source} leave {len(random)} tensors of backbone and neck as they were, random: "
                "use those of a detector with this backbone, or the backbone of these weights "
                f"(MODEL.BACKBONE). {advice}Missing:\n  {some_of(random, *_LINES)}"
            )
    return parts


def _misfits(backbone: PartCoverage, weights: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    """Name of a tensor that the file has in another shape -> both shapes. What Detectron2 could not
    match has a bare name."""
    misfits = {}
    for name in backbone.missing:
        found = weights.get(name, weights.get(name.removeprefix(prefix)))
        if found is not None:
            own = tuple(backbone.expected[name].shape)
            misfits[name] = f"{name}: {tuple(found.shape)} instead of {own}"
    return misfits


def _window(misfits: Collection[str]) -> str:
    """A sentence where Swin's tables are what does not fit."""
    if not any(name.endswith("relative_position_bias_table") for name in misfits):
        return ""
    return (
        "Swin's tables of relative positions have (2 w - 1)^2 rows for windows of w cells: set "
        "AGSSP.SWIN.WINDOW_SIZE to that of the weights. "
    )


def left_over_blocks(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What a file's backbone has within the parts of the model's and the model lacks: blocks, or
    tensors of a module. Whole stages after the last, classifiers, and pretraining's tokens are no
    such thing."""
    prefix, state = bottom_up_prefix(model), model.state_dict()
    own = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    # Bare names are those of a backbone's own file; of a detector's, only what has the prefix.
    is_detector = any(name.startswith("backbone.") and name not in state for name in weights)
    beyond = {
        name.removeprefix(prefix)
        for name in weights
        if name not in state and (name.startswith(prefix) if is_detector else True)
    }
    return sorted(
        group
        for group in _groups(beyond, own)
        if not group.endswith((*BOOKKEEPING, *RUNNING_STATISTICS))
        and group not in (*EXPECTED_LEFT_OVER, *SETTINGS_IN_STATE)
        and _lies_within(group, own, beyond)
    )


def _lies_within(group: str, own: Collection[str], beyond: Collection[str]) -> bool:
    parent, _, last = group.rpartition(".")
    if not parent and not last.isdigit():
        # A module beside the stages, or a whole stage under a name of its own (res5).
        return group in beyond
    siblings = [name for name in own if name.startswith(f"{parent}." if parent else "")]
    return not (last.isdigit() and any(_is_list_of_blocks(name, parent) for name in siblings))


def _is_list_of_blocks(name: str, parent: str) -> bool:
    """Whether ``name`` shows that the numbered children of ``parent`` are stages: they have
    numbered children themselves."""
    below = name.removeprefix(f"{parent}.").split(".")[1:]
    return any(part.isdigit() for part in below)


def _has_blocks(group: str, names: Iterable[str]) -> bool:
    """Whether the group is a block (numbered), or a stage that holds blocks."""
    if group.rpartition(".")[2].isdigit():
        return True
    below = (name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}."))
    return any(part.isdigit() for name in below for part in name.split("."))


def _groups(names: Iterable[str], others: Iterable[str]) -> set[str]:
    """The shortest prefixes (whole words) of ``names`` that no name of ``others`` has."""
    known = {prefix for name in others for prefix in _prefixes(name)}
    return {
        next(prefix for prefix in _prefixes(name) if prefix not in known)
        for name in names
        if name not in known
    }


def _prefixes(name: str) -> Iterator[str]:
    words = name.split(".")
    for count in range(1, len(words) + 1):
        yield ".".join(words[:count])
