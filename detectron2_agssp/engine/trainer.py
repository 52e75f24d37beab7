"""Detectron2's DefaultTrainer with what AGSSP's recipes need and the stock one lacks."""

import os
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.data.unlabeled import EVALUATOR_TYPE
from detectron2_agssp.engine.averaging import AverageWeights, ExchangeWeights, WeightAverage
from detectron2_agssp.engine.early_stopping import StopWithoutGain, TrainingStopped
from detectron2_agssp.engine.hooks import ExportBackbone, ExportTeacher, StoreThreshold
from detectron2_agssp.engine.mixed_precision import train_in_bfloat16, without_cuda_amp
from detectron2_agssp.engine.processes import ddp_of
from detectron2_agssp.engine.trackers import build_trackers
from detectron2_agssp.engine.training_page import TrainingPage
from detectron2_agssp.evaluation.map_evaluator import AnomalyMapEvaluator
from detectron2_agssp.evaluation.operating_point import DetectionEvaluator
from detectron2_agssp.modeling import AnomalyDistiller, TeacherStudent


class AGSSPTrainer(DefaultTrainer):
    """Adds an evaluator for maps, the best F1 and its threshold (kept as ``threshold.json``), the
    best checkpoint (``AGSSP.SOLVER.BEST_METRIC``), early stopping (``AGSSP.SOLVER.PATIENCE``), a
    page about a detector (``report.html``), averaged weights (``AGSSP.SOLVER.EMA_DECAY``), mixed
    precision on CPUs (``SOLVER.AMP.ENABLED``), and at the end AGBP's backbone, or the detector of
    teacher rounds, as files."""

    def __init__(self, cfg):
        with ddp_of(cfg.MODEL.DEVICE):
            super().__init__(without_cuda_amp(cfg))
        if self.cfg.SOLVER.AMP.ENABLED != cfg.SOLVER.AMP.ENABLED:
            train_in_bfloat16(getattr(self.model, "module", self.model))

    def train(self):
        """As Detectron2's.

        Raises:
            FloatingPointError: the loss became infinite or NaN; the message says what to try.
        """
        try:
            return super().train()
        except TrainingStopped:
            return getattr(self, "_last_eval_results", None)
        except FloatingPointError as error:
            solver = self.cfg.SOLVER
            raise FloatingPointError(
                f"The loss of {self.cfg.OUTPUT_DIR} became infinite or NaN in iteration "
                f"{self.iter}. Try a lower SOLVER.BASE_LR (it is {solver.BASE_LR:g}), a longer "
                f"SOLVER.WARMUP_ITERS ({solver.WARMUP_ITERS}) or SOLVER.CLIP_GRADIENTS.ENABLED "
                "True, and look for images or boxes that are no numbers. Delete the folder first: "
                "a run goes on from its last checkpoint."
            ) from error

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        model = super().build_model(cfg)
        # On a CPU the convolutions of the lite models run about 1.2 times as fast that way; the
        # numbers are the same but for rounding.
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None) -> DatasetEvaluator:
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
        if kind == EVALUATOR_TYPE:
            return AnomalyMapEvaluator(cfg.AGSSP.DISTILL.TARGET_RESIZE)
        if kind == "coco":
            return DetectionEvaluator(
                dataset_name, output_folder or results_folder(cfg, dataset_name)
            )
        raise ValueError(
            f"Data set {dataset_name!r} has evaluator_type {kind!r}; this trainer evaluates 'coco' "
            f"and {EVALUATOR_TYPE!r}. Use Detectron2's own train_net.py for others."
        )

    def build_writers(self) -> list:
        return [*super().build_writers(), *build_trackers(self.cfg)]

    def build_hooks(self) -> list:
        # Detectron2's trainer makes a stock one just before, and its hooks take what is there.
        self.checkpointer = CheckedCheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, **self.checkpointer.checkpointables
        )
        built = super().build_hooks()
        metric, best = self.cfg.AGSSP.SOLVER.BEST_METRIC, None
        patience = self.cfg.AGSSP.SOLVER.PATIENCE
        if patience and not metric:
            raise ValueError(
                f"AGSSP.SOLVER.PATIENCE {patience} needs AGSSP.SOLVER.BEST_METRIC, the metric that "
                "is to gain, such as bbox/AP."
            )
        if metric:
            if self.cfg.TEST.EVAL_PERIOD <= 0:
                raise ValueError(f"AGSSP.SOLVER.BEST_METRIC {metric!r} needs TEST.EVAL_PERIOD > 0.")
            # Only there are results; the writers, the last hook, come after it.
            if comm.is_main_process():
                best = hooks.BestCheckpointer(
                    self.cfg.TEST.EVAL_PERIOD, self.checkpointer, metric, file_prefix="model_best"
                )
                built.insert(-1, best)
        if self.cfg.DATASETS.TEST and comm.is_main_process():
            built.insert(-1, StoreThreshold(self.cfg.OUTPUT_DIR, self.cfg.DATASETS.TEST, best))
        model = self.model.module if hasattr(self.model, "module") else self.model
        # After what may still change the model, before the checkpoint that says all is done.
        last = []
        if self.cfg.AGSSP.SOLVER.EMA_DECAY:
            average = WeightAverage(model, self.cfg.AGSSP.SOLVER.EMA_DECAY)
            self.checkpointer.add_checkpointable("agssp_average", average)
            last.append(AverageWeights(average))
            exchange = ExchangeWeights(average, self.cfg.TEST.EVAL_PERIOD)
            (place,) = (i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
            built.insert(place, exchange)
            # Only the main process has writers, and after the evaluation nothing else.
            built.insert(len(built) - comm.is_main_process(), exchange)
        if isinstance(model, AnomalyDistiller):
            last.append(ExportBackbone(self.cfg.OUTPUT_DIR))
        if isinstance(model, TeacherStudent):
            last.append(ExportTeacher(self.cfg))
        places = [i for i, h in enumerate(built) if isinstance(h, hooks.PeriodicCheckpointer)]
        built[places[0] if places else 0 : 0] = last
        return [*built, *self._last_hooks(best)]

    def _last_hooks(self, best: hooks.BestCheckpointer | None) -> list:
        """What comes after the writers."""
        last: list = []
        names, solver = self.cfg.DATASETS.TEST, self.cfg.AGSSP.SOLVER
        kind = MetadataCatalog.get(names[0]).get("evaluator_type", None) if names else None
        if kind == "coco" and comm.is_main_process():
            folder = results_folder(self.cfg, names[0])
            last.append(TrainingPage(self.cfg, Path(folder, DetectionEvaluator.RESULTS), best))
        if solver.PATIENCE:
            last.append(StopWithoutGain(solver.BEST_METRIC, solver.PATIENCE))
        return last


def results_folder(cfg, dataset_name: str) -> str:
    """Of an evaluation; one per data set, if there are several."""
    several = (dataset_name,) if len(cfg.DATASETS.TEST) > 1 else ()
    return os.path.join(cfg.OUTPUT_DIR, "inference", *several)
