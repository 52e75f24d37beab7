"""Training runs as steps of a longer line: from a shipped config to weights and figures.

A run resumes where it was interrupted, and a finished one is not run again. What says that it is
finished is written last, atomically, and checked when it is read.
"""

import contextlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from detectron2_agssp.checkpoint.resuming import forget_damaged_checkpoints
from detectron2_agssp.engine.metrics_file import read_metrics
from detectron2_agssp.engine.processes import of_main
from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.io.config_reading import read_config
from detectron2_agssp.io.files import atomic_write, named_when_full, write_json

logger = logging.getLogger(__name__)

FINISHED = "finished.json"


def run_config(path: str | Path, output_dir: str | Path, overrides: Mapping) -> CfgNode:
    """A config file with overrides (key -> value), for the folder of this run; frozen.

    Raises:
        ValueError: a key that does not exist, or a value of another type.
    """
    cfg = read_config(path)
    for key, value in overrides.items():
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(f"{path} with {key} = {value!r}: {error}") from error
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.freeze()
    return cfg


def train(cfg: CfgNode, *, progress: bool = True, hooks: Sequence[HookBase] = ()) -> Path:
    """Trains to the end, or goes on with an interrupted run; returns the final weights.

    The generators are seeded by ``cfg.SEED`` (negative: anew each time). Logs go to ``log.txt`` in
    ``cfg.OUTPUT_DIR`` alone; the console gets a progress bar. Beside the weights: ``config.yaml``
    and, written last, ``finished.json``; what a killed run left half-written is not taken for done.

    Called in every process of a run, it is one training.

    Args:
        cfg: of the run, and its folder.
        progress: show a bar.
        hooks: more of them, after the trainer's own.

    Raises:
        FloatingPointError: the loss became infinite or NaN; the message says what to try.
        OSError: the disk is full.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
    if not of_main(lambda: is_finished(output_dir)):
        with named_when_full(output_dir, "Make room and run the same command again."):
            _train(cfg, output_dir, progress, hooks)
    return output_dir / "model_final.pth"


def _train(cfg: CfgNode, output_dir: Path, progress: bool, hooks: Sequence[HookBase]) -> None:
    rank = comm.get_rank()
    for name in ("detectron2", "fvcore", "detectron2_agssp"):
        # Each run has a log file of its own.
        logging.getLogger(name).handlers.clear()
        setup_logger(str(output_dir), rank, name=name, configure_stdout=False)
    if rank == 0:
        with atomic_write(output_dir / "config.yaml") as file:
            file.write(cfg.dump())
    # As Detectron2 does: other draws in each process.
    seed_all_rng(cfg.SEED + rank if cfg.SEED >= 0 else None)
    trainer = AGSSPTrainer(cfg)
    trainer.register_hooks([*hooks, ProgressBar()] if progress else list(hooks))
    for name in of_main(lambda: forget_damaged_checkpoints(output_dir)):
        logger.warning("Removed %s, which was cut short.", output_dir / name)
    trainer.resume_or_load(resume=True)
    # pycocotools prints its own tables; metrics.json and the log file have the figures.
    with contextlib.redirect_stdout(None):
        trainer.train()
    of_main(lambda: _finish(output_dir, cfg.SOLVER.MAX_ITER))


def is_finished(output_dir: str | Path) -> bool:
    """Whether a run ended, with its weights whole: ``finished.json`` names the files and sizes."""
    output_dir = Path(output_dir)
    try:
        record = json.loads((output_dir / FINISHED).read_text())
        sizes = {name: (output_dir / name).stat().st_size for name in record["bytes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return sizes == record["bytes"] != {}


def _finish(output_dir: Path, iterations: int) -> None:
    # A finished run is not resumed: the last weights are all that is needed.
    for path in output_dir.glob("model_[0-9]*.pth"):
        path.unlink()
    files = sorted(output_dir.glob("*.pth"))
    sizes = {path.name: path.stat().st_size for path in files}
    write_json(output_dir / FINISHED, {"iterations": iterations, "bytes": sizes})


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


def final_metrics(output_dir: str | Path, iterations: int) -> dict[str, float]:
    """AP and AP50 of the evaluation after that many iterations, in percent; without detections, 0.

    Raises:
        ValueError: there is no such evaluation: the run did not come to its end.
    """
    evaluated = [
        record
        for record in read_metrics(output_dir)
        # One more, where the run was killed in the evaluation and went on with that.
        if {"bbox/AP", "bbox/AP50"} <= record.keys() and record["iteration"] >= iterations
    ]
    if not evaluated:
        raise ValueError(
            f"{output_dir} has no evaluation after iteration {iterations}: training there did not "
            "come to its end. Run it again to go on."
        )
    values = {name: evaluated[-1][f"bbox/{name}"] for name in ("AP", "AP50")}
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}
