"""Hooks beside Detectron2's own."""

import logging
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer
from detectron2.utils import comm

from detectron2_agssp.checkpoint.export import export_backbone, export_teacher
from detectron2_agssp.evaluation.operating_point import F1, THRESHOLD, store_threshold

logger = logging.getLogger(__name__)


class ExportBackbone(HookBase):
    """Writes ``backbone_final.pth`` after the last iteration, for any detector's ``MODEL.WEIGHTS``.

    It has to come before the hook that writes ``model_final.pth``, which says that all is done.

    Args:
        output_dir: folder of the file.
    """

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / "backbone_final.pth"

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        export_backbone(self.trainer.model, self.path)
        logger.info("Exported the backbone. Use it with MODEL.WEIGHTS %s", self.path)


class ExportTeacher(HookBase):
    """Writes ``detector_final.pth`` after the last iteration of teacher rounds: the detector alone.

    It has to come before the hook that writes ``model_final.pth``, which says that all is done.

    Args:
        cfg: of the run.
    """

    def __init__(self, cfg):
        self.cfg = cfg

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        model = getattr(self.trainer.model, "module", self.trainer.model)
        path = export_teacher(model, Path(self.cfg.OUTPUT_DIR) / "detector_final.pth", self.cfg)
        logger.info("Exported the taught detector. Detectron2 loads it alone: %s", path)


class StoreThreshold(HookBase):
    """Writes ``threshold.json`` beside the weights that a run is used with: the score of the best
    F1 on its first data set of validation.

    It comes after the hooks that evaluate and save; in the main process.

    Args:
        output_dir: folder of the weights.
        data: names of the data sets of validation.
        best: what saves ``model_best.pth``; None where only ``model_final.pth`` is saved.
    """

    def __init__(
        self, output_dir: str | Path, data: tuple[str, ...], best: BestCheckpointer | None = None
    ):
        self.output_dir = Path(output_dir)
        self.data = data[0]
        self.prefix = f"{data[0]}/bbox/" if len(data) > 1 else "bbox/"
        self.best = best
        self.stored: int | None = None

    def after_step(self) -> None:
        # The last evaluation is yet to come.
        if self.best is not None and self.trainer.iter + 1 < self.trainer.max_iter:
            self._store("model_best.pth")

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._store("model_final.pth" if self.best is None else "model_best.pth")

    def _store(self, weights: str) -> None:
        latest = self.trainer.storage.latest()
        threshold, iteration = latest.get(self.prefix + THRESHOLD, (None, None))
        is_new = iteration == self.trainer.iter != self.stored
        if not is_new or (self.best is not None and self.best.best_iter != iteration):
            return
        f1, _ = latest[self.prefix + F1]
        path = self.output_dir / weights
        store_threshold(path, threshold=threshold, f1=f1, data=self.data)
        self.stored = iteration
