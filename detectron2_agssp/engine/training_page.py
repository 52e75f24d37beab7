"""The hook that writes the page of a finished training."""

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer

from detectron2_agssp.engine.metrics_file import read_metrics
from detectron2_agssp.evaluation.operating_point import best_operating_point
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.files import read_json, read_text

logger = logging.getLogger(__name__)

PAGE = "report.html"
_MAX_RUNS = 50


class TrainingPage(HookBase):
    """Writes ``report.html`` about the weights that a run is used with, after the last iteration.

    It is the last hook, in the main process. What keeps the page from being written is logged, and
    no reason for the run to fail.

    Args:
        cfg: of the run; its first data set of validation has COCO labels.
        results: file of the latest evaluation's COCO results.
        best: what saves ``model_best.pth``; None where only ``model_final.pth`` is saved.
    """

    def __init__(self, cfg: CfgNode, results: Path, best: BestCheckpointer | None = None):
        self.cfg = cfg
        self.results = results
        self.best_results = results.with_name("best_results.json")
        self.best = best
        self.prefix = f"{cfg.DATASETS.TEST[0]}/bbox/" if len(cfg.DATASETS.TEST) > 1 else "bbox/"

    def after_step(self) -> None:
        is_best = self.best is not None and self.best.best_iter == self.trainer.iter
        if is_best and self.results.is_file():
            shutil.copyfile(self.results, self.best_results)

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:
            return
        try:
            page = self._write()
        except (OSError, ValueError) as error:
            logger.warning("The page of this training was not written: %s", error)
            return
        logger.info("Curves, AP per class and the worst mistakes: see %s", page)

    def _write(self) -> Path:
        # Matplotlib and jinja2 are not loaded before they are needed.
        from detectron2_agssp.reports.training_report import write_training_report

        is_earlier = (
            self.best is not None
            and self.best.best_iter not in (None, self.trainer.iter)
            and self.best_results.is_file()
        )
        results = read_json(self.best_results if is_earlier else self.results)
        output = Path(self.cfg.OUTPUT_DIR)
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TEST[0])
        labels = read_coco(metadata.json_file)
        point = best_operating_point(labels, results)
        solver = self.cfg.SOLVER
        iteration = self.best.best_iter if is_earlier and self.best else self.trainer.iter - 1
        return write_training_report(
            output / PAGE,
            values={
                "weights": "model_final.pth" if self.best is None else "model_best.pth",
                "after iteration": iteration + 1,
                "iterations": self.trainer.max_iter,
                "learning rate": f"{solver.BASE_LR:g}",
                "trained on": ", ".join(self.cfg.DATASETS.TRAIN),
                "validated on": self.cfg.DATASETS.TEST[0],
            },
            records=read_metrics(output),
            labels=labels,
            results=results,
            image_root=metadata.image_root,
            threshold=0.5 if point is None else point.threshold,
            runs=runs_beside(output, self.prefix + "AP"),
            prefix=self.prefix,
        )


def runs_beside(output: Path, metric: str) -> list[dict[str, Any]]:
    """Of a run and those in the folders beside it on the same data sets: ``run``, ``rate``,
    ``iterations`` done and the best ``AP``, by rate; none where there is no other."""
    own = _solver_and_data(output)
    runs = []
    for folder in sorted(output.resolve().parent.iterdir())[:_MAX_RUNS]:
        solver, data = _solver_and_data(folder)
        records = read_metrics(folder) if solver and data == own[1] else []
        values = [record[metric] for record in records if metric in record]
        if values:
            done = max(record["iteration"] for record in records) + 1
            rate = float(solver["BASE_LR"])
            runs.append({"run": folder.name, "rate": rate, "iterations": done, "AP": max(values)})
    return sorted(runs, key=lambda run: run["rate"]) if len(runs) > 1 else []


def _solver_and_data(folder: Path) -> tuple[dict, dict]:
    path = folder / "config.yaml"
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        content = yaml.safe_load(read_text(path))
        return dict(content["SOLVER"]), dict(content["DATASETS"])
    return {}, {}
