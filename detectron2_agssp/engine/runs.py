"""Training runs as steps of a longer line: from a shipped config to weights and figures.

A run resumes where it was interrupted, and a finished one is not run again.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from detectron2_agssp.engine.trainer import AGSSPTrainer


def run_config(path: str | Path, output_dir: str | Path, overrides: Mapping) -> CfgNode:
    """A config file with overrides (key -> value), for the folder of this run; frozen.

    Raises:
        ValueError: a key that does not exist, or a value of another type.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    for key, value in overrides.items():
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError) as error:
            raise ValueError(f"{path} with {key} = {value!r}: {error}") from error
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.freeze()
    return cfg


def train(cfg: CfgNode, *, progress: bool = True) -> Path:
    """Trains to the end, or goes on with an interrupted run; returns the final weights.

    The generators are seeded by ``cfg.SEED`` (negative: anew each time). Logs go to ``log.txt`` in
    ``cfg.OUTPUT_DIR`` alone; the console gets a progress bar.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
    final = output_dir / "model_final.pth"
    if final.exists():
        return final
    for name in ("detectron2", "fvcore", "detectron2_agssp"):
        # Each run has a log file of its own.
        logging.getLogger(name).handlers.clear()
        setup_logger(str(output_dir), name=name, configure_stdout=False)
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    trainer = AGSSPTrainer(cfg)
    if progress:
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


def read_metrics(output_dir: str | Path) -> list[dict]:
    """The records of Detectron2's ``metrics.json``, in the order they were written; none where
    there is no such file. A line that a killed process left unfinished is passed over."""
    path, records = Path(output_dir) / "metrics.json", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def final_metrics(output_dir: str | Path) -> dict[str, float]:
    """AP and AP50 of the last evaluation, in percent."""
    metrics = {}
    for record in read_metrics(output_dir):
        for name in ("AP", "AP50"):
            if f"bbox/{name}" in record:
                metrics[name] = record[f"bbox/{name}"]
    return metrics
