"""What a checkpoint was trained with, kept beside its weights under "agssp", and compared where it
is loaded.

Weights fit by names and shapes alone; pixel statistics, channel order, anchors and classes have no
shape, and a detector that got them wrong only learns worse.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import FPN, ResNet, SwinTransformer
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from detectron2_agssp.checkpoint.coverage import bottom_up_of, bottom_up_prefix
from detectron2_agssp.modeling import AnomalyDistiller, CSPDarknet, TimmBackbone, ViTBackbone
from detectron2_agssp.modeling.backbone.cspdarknet import SIZES as CSPDARKNET_SIZES
from detectron2_agssp.modeling.backbone.vit import SIZES as VIT_SIZES

logger = logging.getLogger(__name__)

# Marks files of this package; Detectron2 logs it while loading.
AUTHOR = "detectron2_agssp"
KEY = "agssp"
# (Blocks of the first three stages, whether they are bottlenecks) -> MODEL.RESNETS.DEPTH.
_DEPTHS = {
    ((2, 2, 2), False): 18,
    ((3, 4, 6), False): 34,
    ((3, 4, 6), True): 50,
    ((3, 4, 23), True): 101,
    ((3, 8, 36), True): 152,
}


def record_of(model: nn.Module, cfg=None) -> dict[str, Any]:
    """What a model is, in plain values that a tensor-only reader takes.

    Args:
        model: a Detectron2 model with ``backbone``.
        cfg: its config where that is known: it names the builder of the backbone and the classes.

    Returns:
        ``pixel_mean`` and ``pixel_std`` a channel, in [0, 255], in the order of ``format`` ("RGB"
        or "BGR"); ``backbone``, its builder or class; ``prefix`` of its names; ``num_classes`` (0:
        none) and ``classes``, their names where known; ``settings``: of "backbone", "neck" and
        "heads", config key -> value.
    """
    num_classes = num_classes_of(model)
    names: list[str] = []
    if cfg is not None and num_classes and cfg.DATASETS.TRAIN:
        names = list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", []))
    builder = getattr(model, "backbone_name", None) or (cfg and cfg.MODEL.BACKBONE.NAME)
    return {
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "format": getattr(model, "input_format", None) or "BGR",
        "backbone": builder or type(model.backbone).__name__,
        "prefix": bottom_up_prefix(model),
        "num_classes": num_classes,
        "classes": names if len(names) == num_classes else [],
        "settings": {
            "backbone": backbone_settings(bottom_up_of(model.backbone)),
            "neck": _neck_settings(model.backbone),
            "heads": _head_settings(model),
        },
    }


def num_classes_of(model: nn.Module) -> int:
    """Of a detector; 0 where it has none."""
    owner = getattr(model, "roi_heads", None) or model
    return getattr(owner, "num_classes", 0) or 0


def can_be_recorded(model: nn.Module) -> bool:
    """Whether it has what all of Detectron2's models have."""
    return isinstance(getattr(model, "backbone", None), nn.Module) and hasattr(model, "pixel_mean")


def belongs_to_agssp(model: nn.Module, cfg=None) -> bool:
    """Whether a checkpoint of this model is one of AGSSP's and gets a record: a part of it is this
    package's, or its training mapper."""
    if cfg is not None and "AGSSP" in cfg and cfg.AGSSP.MAPPER:
        return True
    return any(type(module).__module__.startswith(AUTHOR) for module in model.modules())


def differing_settings(model: nn.Module, record: Mapping[str, Any]) -> list[str]:
    """Lines for the config, "KEY: value", that make the model what the weights were trained as."""
    if not {"pixel_mean", "pixel_std"} <= record.keys():
        return []
    own = _pixels(model)
    lines = [
        f"MODEL.{key.upper()}: {record[key]}"
        for key in ("pixel_mean", "pixel_std")
        if own.get(key) is not None
        and not torch.allclose(
            torch.tensor(own[key]), torch.tensor(record[key], dtype=torch.float32), atol=0.5
        )
    ]
    if own.get("format") and record.get("format", own["format"]) != own["format"]:
        lines.append(f'INPUT.FORMAT: "{record["format"]}"')
    if not hasattr(model, "backbone"):
        return lines
    theirs = record.get("settings", {})
    of_model = {
        "backbone": backbone_settings(bottom_up_of(model.backbone)),
        "neck": _neck_settings(model.backbone),
        "heads": _head_settings(model),
    }
    if AnomalyDistiller.__name__ in (
        theirs.get("heads", {}).get("MODEL.META_ARCHITECTURE"),
        type(model).__name__,
    ):
        # Pretraining has a backbone alone, for whatever detector.
        of_model = {"backbone": of_model["backbone"]}
    for part, settings in of_model.items():
        lines += [
            f"{key}: {as_yaml(value)}"
            for key, value in theirs.get(part, {}).items()
            if key in settings and settings[key] != value
        ]
    return lines


def differing_classes(record: Mapping[str, Any], classes: list[str]) -> bool:
    """Whether both sides have names for the same number of classes, and not the same ones in the
    same order."""
    theirs = record.get("classes", [])
    return len(theirs) == len(classes) and theirs != classes


def _pixels(model: nn.Module) -> dict[str, Any]:
    values = {key: getattr(model, key, None) for key in ("pixel_mean", "pixel_std")}
    pixels: dict[str, Any] = {
        key: value.flatten().tolist() for key, value in values.items() if value is not None
    }
    return {**pixels, "format": getattr(model, "input_format", None)}


def as_yaml(value: Any) -> str:
    """As in a config file."""
    return f'"{value}"' if isinstance(value, str) else str(value)


def backbone_settings(bottom_up: nn.Module) -> dict[str, Any]:
    """Config key -> value of what decides the layers of a backbone; {} where it is not known."""
    if isinstance(bottom_up, TimmBackbone):
        return {"AGSSP.TIMM.MODEL": bottom_up.model_name}
    if isinstance(bottom_up, SwinTransformer):
        return {
            "AGSSP.SWIN.EMBED_DIM": bottom_up.embed_dim,
            "AGSSP.SWIN.DEPTHS": [len(layer.blocks) for layer in bottom_up.layers],
            "AGSSP.SWIN.WINDOW_SIZE": bottom_up.layers[0].window_size,
        }
    if isinstance(bottom_up, ViTBackbone):
        width, depth = bottom_up.patch_embed.proj.out_channels, len(bottom_up.blocks)
        sizes = {(size.embed_dim, size.depth): name for name, size in VIT_SIZES.items()}
        return {
            "AGSSP.VIT.SIZE": sizes.get((width, depth), f"{width} channels, {depth} blocks"),
            "AGSSP.VIT.PATCH_SIZE": bottom_up.patch_embed.proj.kernel_size[0],
        }
    if isinstance(bottom_up, CSPDarknet):
        stem = bottom_up.stem.conv.out_channels
        sizes = {size.stem: name for name, size in CSPDARKNET_SIZES.items()}
        return {"AGSSP.CSPDARKNET.SIZE": sizes.get(stem, f"{stem} channels in the stem")}
    if not isinstance(bottom_up, ResNet):
        return {}
    first = bottom_up.stages[0][0]
    bottleneck = isinstance(first, BottleneckBlock)
    blocks = tuple(len(stage) for stage in bottom_up.stages[:3])
    settings: dict[str, Any] = {"MODEL.RESNETS.RES2_OUT_CHANNELS": first.out_channels}
    if (blocks, bottleneck) in _DEPTHS:
        settings["MODEL.RESNETS.DEPTH"] = _DEPTHS[blocks, bottleneck]
    if bottleneck and len(bottom_up.stages) > 1:
        # No weight tells the two apart.
        strides = bottom_up.stages[1][0].conv1.stride
        settings["MODEL.RESNETS.STRIDE_IN_1X1"] = tuple(strides) == (2, 2)
    return settings


def _neck_settings(backbone: nn.Module) -> dict[str, Any]:
    if not isinstance(backbone, FPN):
        return {}
    channels = next(iter(backbone.output_shape().values())).channels
    return {
        "MODEL.FPN.IN_FEATURES": list(backbone.in_features),
        "MODEL.FPN.OUT_CHANNELS": channels,
    }


def _head_settings(model: nn.Module) -> dict[str, Any]:
    # Weights of teacher rounds are those of a detector.
    detector = getattr(model, "teacher", model)
    settings: dict[str, Any] = {"MODEL.META_ARCHITECTURE": type(detector).__name__}
    roi_heads = getattr(model, "roi_heads", None)
    if roi_heads is not None:
        settings["MODEL.ROI_HEADS.NAME"] = type(roi_heads).__name__
    for module in model.modules():
        if isinstance(module, DefaultAnchorGenerator):
            levels = [_sizes_and_ratios(anchors) for anchors in module.cell_anchors]
            settings["MODEL.ANCHOR_GENERATOR.SIZES"] = [sizes for sizes, _ in levels]
            settings["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] = [ratios for _, ratios in levels]
            break
    return settings


def _sizes_and_ratios(anchors: torch.Tensor) -> tuple[list[float], list[float]]:
    """Of XYXY anchors (A, 4) round a cell: square roots of their areas in pixels, and height by
    width."""
    width, height = (anchors[:, 2:] - anchors[:, :2]).double().unbind(1)
    sizes = [round(size, 1) for size in (width * height).sqrt().tolist()]
    ratios = [round(ratio, 2) for ratio in (height / width).tolist()]
    return list(dict.fromkeys(sizes)), list(dict.fromkeys(ratios))
