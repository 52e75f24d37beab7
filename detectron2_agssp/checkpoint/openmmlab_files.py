"""OpenMMLab checkpoints as files: read as tensors only, written for MODEL.WEIGHTS."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from detectron2_agssp.checkpoint.openmmlab import (
    BOOKKEEPING_SUFFIXES,
    Conversion,
    convert_checkpoint,
)
from detectron2_agssp.checkpoint.openmmlab_detector import (
    YOLO,
    convert_detector,
    detector_of,
    settings_of,
)
from detectron2_agssp.checkpoint.record import AUTHOR, KEY
from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.io.weight_files import WEIGHT_KEYS, read_weight_file

# Mean and deviation of RGB pixels in [0, 255] by OpenMMLab's own configs.
IMAGENET_PIXELS = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
YOLO_PIXELS = [0.0, 0.0, 0.0], [255.0, 255.0, 255.0]


def convert_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    channel_order: str = "RGB",
) -> Conversion:
    """Writes an OpenMMLab checkpoint under Detectron2's names: all of a Faster R-CNN, YOLO or DINO,
    else the backbone.

    Args:
        source: checkpoint of mmdet, mmpretrain, mmcls or mmyolo.
        target: file to write; Detectron2 finds a backbone inside any detector.
        pixel_mean, pixel_std: three numbers each, in [0, 255], in ``channel_order``; by default
            those of ImageNet in RGB (of a YOLO, pixels in [0, 1]), and none for BGR, whose models
            have statistics of their own (Caffe's divide by 1).
        channel_order: "RGB" or "BGR".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file with more than tensors and plain values, which is not unpickled; a
            backbone that is not known; BGR without statistics.
    """
    if channel_order == "BGR" and not (pixel_mean and pixel_std):
        raise ValueError("--format BGR needs --pixel-mean and --pixel-std, in BGR order.")
    content = read_weight_file(source)
    try:
        detector = detector_of(content)
        conversion = convert_detector(content) if detector else convert_checkpoint(content)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    beside = [
        key
        for key, value in content.items()
        if not isinstance(value, torch.Tensor) and key not in WEIGHT_KEYS
    ]
    conversion = replace(conversion, left_out=[*conversion.left_out, *beside])
    mean, std = YOLO_PIXELS if detector == YOLO else IMAGENET_PIXELS
    checkpoint = {
        "model": conversion.weights,
        "matching_heuristics": not detector,
        "__author__": AUTHOR,
        KEY: {
            "pixel_mean": pixel_mean or mean,
            "pixel_std": pixel_std or std,
            "format": channel_order,
            "backbone": conversion.backbone,
            "settings": settings_of(detector, conversion.weights),
        },
    }
    with atomic_write(target, "wb") as file:
        torch.save(checkpoint, file)
    return conversion


def left_out_by_kind(conversion: Conversion) -> str:
    """What was not converted, such as "1 head, 12 attn_mask": its module, or the kind of buffer."""

    def kind(name: str) -> str:
        parts = name.split(".")
        if name.startswith("ema_"):
            # mmdet 2 keeps the raw weights under joined names, beside the averaged.
            return "ema"
        return parts[-1] if name.endswith(BOOKKEEPING_SUFFIXES) else parts[0]

    counts = Counter(map(kind, conversion.left_out))
    return ", ".join(f"{count} {name}" for name, count in counts.items())
