"""The stages of the quickstart: each a config, a timed training run, and where it ended up.

Every stage resumes where it was interrupted, and a finished one is not run again.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import HookBase
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.utils.files import write_json

# Small enough for minutes on two CPU cores.
IMAGE_SIZE = 160
AGBP_ITERATIONS = 120
DETECTOR_ITERATIONS = 80

AGBP_OVERRIDES = {
    "INPUT.MIN_SIZE_TRAIN": (176, 288),
    "INPUT.CROP.SIZE": [160, 160],
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": AGBP_ITERATIONS,
    "SOLVER.WARMUP_ITERS": 20,
    "VIS_PERIOD": 40,
}
DETECTOR_OVERRIDES = {
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


def stage_config(path: Path, output_dir: Path, overrides: dict) -> CfgNode:
    """A shipped config with overrides, for this stage's folder; frozen."""
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    for key, value in overrides.items():
        cfg.merge_from_list([key, value])
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.SOLVER.CHECKPOINT_PERIOD = 30
    cfg.DATALOADER.NUM_WORKERS = 1
    cfg.SEED = 1
    cfg.freeze()
    return cfg


def train(cfg: CfgNode) -> Path:
    """Trains to the end, or goes on with an interrupted run; returns the final weights."""
    output_dir = Path(cfg.OUTPUT_DIR)
    final = output_dir / "model_final.pth"
    if final.exists():
        return final
    for name in ("detectron2", "fvcore", "detectron2_agssp"):
        # Each stage has a log file of its own; the console gets a progress bar.
        logging.getLogger(name).handlers.clear()
        setup_logger(str(output_dir), name=name, configure_stdout=False)
    trainer = AGSSPTrainer(cfg)
    trainer.register_hooks([ProgressBar()])
    trainer.resume_or_load(resume=True)
    # pycocotools prints its own tables; metrics.json and the log file have the figures.
    with contextlib.redirect_stdout(None):
        trainer.train()
    return final


class ProgressBar(HookBase):
    """Iterations, time left and the total loss, in one line."""

    def before_train(self) -> None:
        self._bar = tqdm(
            total=self.trainer.max_iter, initial=self.trainer.start_iter, unit="it", desc="train"
        )

    def after_step(self) -> None:
        losses = self.trainer.storage.latest()
        if "total_loss" in losses:
            self._bar.set_postfix(loss=f"{losses['total_loss'][0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._bar.close()


def load_trained(cfg: CfgNode, weights: str | Path):
    """The config's model with ``weights`` ("" for those it is built with), in evaluation mode."""
    model = AGSSPTrainer.build_model(cfg).eval()
    if weights:
        DetectionCheckpointer(model).load(str(weights))
    return model


def final_metrics(output_dir: Path) -> dict[str, float]:
    """AP and AP50 of the last evaluation, in percent, from Detectron2's metrics.json."""
    metrics = {}
    for line in (output_dir / "metrics.json").read_text().splitlines():
        record = json.loads(line)
        for name in ("AP", "AP50"):
            if f"bbox/{name}" in record:
                metrics[name] = record[f"bbox/{name}"]
    return metrics
