"""Sizes of the quickstart's stages, and the seconds that they took."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from detectron2_agssp.io.files import write_json

# Small enough for minutes on two CPU cores.
IMAGE_SIZE = 160
AGBP_ITERATIONS = 120
DETECTOR_ITERATIONS = 80

COMMON_OVERRIDES = {
    "SOLVER.CHECKPOINT_PERIOD": 30,
    "DATALOADER.NUM_WORKERS": 1,
    "SEED": 1,
}
AGBP_OVERRIDES = {
    **COMMON_OVERRIDES,
    "INPUT.MIN_SIZE_TRAIN": (176, 288),
    "INPUT.CROP.SIZE": [160, 160],
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": AGBP_ITERATIONS,
    # So few iterations show nothing at the config's rate.
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 20,
    "VIS_PERIOD": 40,
}
DETECTOR_OVERRIDES = {
    **COMMON_OVERRIDES,
    "INPUT.MIN_SIZE_TRAIN": (IMAGE_SIZE - 16, IMAGE_SIZE, IMAGE_SIZE + 16),
    "INPUT.MIN_SIZE_TEST": IMAGE_SIZE,
    "SOLVER.IMS_PER_BATCH": 5,
    "SOLVER.MAX_ITER": DETECTOR_ITERATIONS,
    # Gentler than the configs: at rate 0.01, batches of 5 have diverged.
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.WARMUP_ITERS": 30,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
}


@dataclass
class Timings:
    """Seconds a stage took, kept in a file so that a resumed quickstart still knows them."""

    path: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.path.exists():
            self.seconds = json.loads(self.path.read_text())

    def measure(self, stage: str, run: Callable):
        """Runs a stage; a repeated or resumed one keeps its longest time."""
        print(f"== {stage}", flush=True)
        start = time.perf_counter()
        result = run()
        elapsed = time.perf_counter() - start
        self.seconds[stage] = max(elapsed, self.seconds.get(stage, 0.0))
        write_json(self.path, self.seconds)
        return result
