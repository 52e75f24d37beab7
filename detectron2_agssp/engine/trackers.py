"""Experiment trackers as Detectron2's event writers: MLflow and Weights & Biases, where they are
installed. Where they send to is up to their own settings, such as ``MLFLOW_TRACKING_URI``."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from detectron2_agssp.config import settings_of


class TrackerWriter(EventWriter):
    """Sends each scalar of the event storage to a tracker once, with its iteration.

    Args:
        log: called with name -> value, and the iteration.
        finish: called at the end.
    """

    def __init__(self, log: Callable[[dict[str, float], int], Any], finish: Callable[[], Any]):
        self._log = log
        self._finish = finish
        self._written = -1

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest().items():
            if iteration > self._written:
                by_iteration.setdefault(iteration, {})[name] = float(value)
        for iteration, values in sorted(by_iteration.items()):
            self._log(values, iteration)
            self._written = iteration

    def close(self) -> None:
        self._finish()


def _mlflow(module: Any, cfg: CfgNode) -> TrackerWriter:
    module.start_run(run_name=Path(cfg.OUTPUT_DIR).name)
    module.log_params(
        {"BASE_LR": cfg.SOLVER.BASE_LR, "MAX_ITER": cfg.SOLVER.MAX_ITER, "SEED": cfg.SEED}
    )
    module.log_dict(settings_of(cfg), "config.json")
    return TrackerWriter(lambda values, step: module.log_metrics(values, step=step), module.end_run)


def _wandb(module: Any, cfg: CfgNode) -> TrackerWriter:
    run = module.init(
        project="detectron2_agssp", name=Path(cfg.OUTPUT_DIR).name, config=settings_of(cfg)
    )
    return TrackerWriter(lambda values, step: run.log(values, step=step), run.finish)


TRACKERS: dict[str, Callable[[Any, CfgNode], TrackerWriter]] = {"mlflow": _mlflow, "wandb": _wandb}


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """The writers that ``AGSSP.SOLVER.TRACKERS`` names.

    Raises:
        ValueError: an unknown name.
        ImportError: a tracker that is not installed; says how to install it.
    """
    writers: list[EventWriter] = []
    for name in cfg.AGSSP.SOLVER.TRACKERS:
        if name not in TRACKERS:
            raise ValueError(
                f"AGSSP.SOLVER.TRACKERS has {name!r}; choices: {', '.join(sorted(TRACKERS))}. "
                "TensorBoard's files are written in any case."
            )
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"AGSSP.SOLVER.TRACKERS has {name}, which is not installed: pip install {name}"
            ) from error
        writers.append(TRACKERS[name](module, cfg))
    return writers
