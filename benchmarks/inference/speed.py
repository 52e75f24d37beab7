"""Frames per second of a detector at batch 1, as in use and of the model alone."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.io.images import list_images, read_image
from detectron2_agssp.utils.precision import autocast, check_precision

WARM_UP = 5


@dataclass(frozen=True)
class Speed:
    """Of one way to run a detector.

    Attributes:
        milliseconds: median of an image.
        slow_milliseconds: that 95 % of the images do not exceed.
    """

    milliseconds: float
    slow_milliseconds: float

    @property
    def frames_per_second(self) -> float:
        return 1000 / self.milliseconds


def measure_inference(
    cfg: CfgNode, image_root: str | Path, *, num_images: int = 100, precision: str = "fp32"
) -> dict[str, Speed]:
    """Times ``cfg``'s detector with ``cfg.MODEL.WEIGHTS``, one image after the other.

    Args:
        cfg: a detector's config; ``INPUT.MIN_SIZE_TEST`` is the size that images are resized to.
        image_root: folder of images; fewer than ``num_images`` are repeated.
        num_images: timed, after a few that are not.
        precision: of the model's forward: "fp32", or by autocast "fp16" or "bf16".

    Returns:
        "end to end": reading the file, decoding, resizing, model and boxes on the CPU; "model
        alone": of an image that is resized already and on the device.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no images; a wrong number or precision; a config without TEST data.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}.")
    dtype = check_precision(precision, "precision")
    names = itertools.islice(list_images(image_root), num_images)
    paths = [Path(image_root, name) for name in names]
    if not paths:
        raise ValueError(f"{image_root} holds no images.")
    predictor = DefaultPredictor(cfg)
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cpu":
        # As the trainer lays it out.
        predictor.model.to(memory_format=torch.channels_last)
    inputs = [model_input(cfg, read_image(path)) for path in paths]
    for one in inputs:
        one["image"] = one["image"].to(device)

    def whole(index: int) -> None:
        # The predictor expects BGR and turns it into the model's order.
        predictor(read_image(paths[index % len(paths)], "BGR"))["instances"].to("cpu")

    def model(index: int) -> None:
        predictor.model([inputs[index % len(inputs)]])

    with torch.inference_mode(), autocast(device.type, dtype):
        return {
            "end to end": _time(whole, num_images, device),
            "model alone": _time(model, num_images, device),
        }


def _time(run: Callable[[int], None], count: int, device: torch.device) -> Speed:
    times = []
    for index in range(-WARM_UP, count):
        start = time.perf_counter()
        run(index)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 0:
            times.append(1000 * (time.perf_counter() - start))
    times.sort()
    return Speed(statistics.median(times), times[min(int(0.95 * count), count - 1)])
