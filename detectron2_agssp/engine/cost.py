"""What training costs on this machine: timed on noise before it begins."""

import contextlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from detectron2_agssp.engine.trainer import AGSSPTrainer

# Share of the free memory that activations may take: gradients, weights and the images take more.
MEMORY_SHARE = 0.3
PROBED_IMAGES, PROBED_ITERATIONS = 2, 3


@dataclass(frozen=True)
class Cost:
    """Of one training image: seconds, and bytes of the activations kept for the backward pass."""

    seconds: float
    num_bytes: int

    def affordable(self, batch: int, device: str) -> int:
        """The batch, halved until its activations fit into the memory that is free now."""
        free = torch.cuda.mem_get_info()[0] if device != "cpu" else free_memory()
        while batch > 1 and batch * self.num_bytes > MEMORY_SHARE * free:
            batch //= 2
        return batch


def measure_cost(cfg: CfgNode, height: int, width: int) -> Cost:
    """Trains a model of the config, which is thrown away, for a few iterations on noise.

    Args:
        cfg: of AGBP or AGDP.
        height, width: of a typical image, pixels, before the config's resizing and cropping.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.VIS_PERIOD = 0
    # Its heads are made for the training data, and cost little.
    cfg.AGSSP.PRETEXT.NAME = ""
    model = AGSSPTrainer.build_model(cfg).train()
    short, longest = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    height, width = T.ResizeShortestEdge.get_output_shape(height, width, short, longest)
    if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute":
        height, width = (
            min(side, crop) for side, crop in zip((height, width), cfg.INPUT.CROP.SIZE, strict=True)
        )
    inputs = [_noise(height, width) for _ in range(PROBED_IMAGES)]
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seconds = []
    with EventStorage():
        for number in range(PROBED_ITERATIONS):
            start = time.perf_counter()
            noted = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
            with noted if number == 0 else contextlib.nullcontext():
                losses = model(inputs)
            total = sum(losses.values())
            total.backward()
            total.item()
            seconds.append(time.perf_counter() - start)
    parameters = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    activations = sum(size for pointer, size in kept.items() if pointer not in parameters)
    # The first iteration allocates.
    return Cost(min(seconds[1:]) / PROBED_IMAGES, activations // PROBED_IMAGES)


def _noise(height: int, width: int) -> dict:
    """An input of AGBP and of AGDP at once."""
    instances = Instances((height, width))
    corner = torch.tensor([[width / 4, height / 4, width / 2, height / 2]])
    instances.gt_boxes = Boxes(corner)
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "anomaly_map": torch.rand(1, height, width),
        "instances": instances,
        "height": height,
        "width": width,
    }


def free_memory() -> int:
    """Bytes of main memory that this process may still take, of the machine or its container."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = 1024 * int(fields["MemAvailable"].split()[0])
        with contextlib.suppress(OSError, ValueError):
            group = Path("/sys/fs/cgroup")
            limit = int((group / "memory.max").read_text())
            free = min(free, limit - int((group / "memory.current").read_text()))
        return max(free, 0)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readable_time(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
