"""Early stopping: training ends when evaluations bring nothing any more."""

import logging
import math

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class TrainingStopped(BaseException):
    """Ends Detectron2's loop, which would log an ``Exception`` as an error; its hooks have ended
    the run by then."""


class StopWithoutGain(HookBase):
    """Ends training after evaluations without a better metric.

    One more iteration is then the last, so that every hook does what it does at the end of any
    run. It is needed in every process, and is the last hook.

    Args:
        metric: such as "bbox/AP"; larger is better.
        patience: evaluations in a row, positive.

    Raises:
        ValueError: ``patience`` is not positive.
    """

    def __init__(self, metric: str, patience: int):
        if patience < 1:
            raise ValueError(
                f"AGSSP.SOLVER.PATIENCE must be positive, or 0 (never), got {patience}."
            )
        self.metric = metric
        self.patience = patience
        self.best = -math.inf
        self.without_gain = 0
        self.is_last = False

    def after_step(self) -> None:
        trainer = self.trainer
        if self.is_last:
            # As at the end of the loop.
            trainer.iter += 1
            raise TrainingStopped
        value, iteration = trainer.storage.latest().get(self.metric, (None, None))
        # The main process alone has results.
        is_new = any(comm.all_gather(iteration == trainer.iter))
        if not is_new or trainer.iter + 1 >= trainer.max_iter:
            return
        if iteration == trainer.iter and value > self.best:
            self.best, self.without_gain = value, 0
        elif iteration == trainer.iter and self.best > -math.inf:
            # Not before anything is found: until then the metric is NaN.
            self.without_gain += 1
        if any(comm.all_gather(self.without_gain >= self.patience)):
            self.is_last = True
            trainer.max_iter = trainer.iter + 2
            for hook in trainer._hooks:
                if isinstance(hook, PeriodicCheckpointer):
                    hook.max_iter = trainer.max_iter
            logger.info(
                "%d evaluations without a better %s than %.4g: training stops "
                "(AGSSP.SOLVER.PATIENCE).",
                self.without_gain,
                self.metric,
                self.best,
            )

    def state_dict(self) -> dict:
        return {"best": self.best, "without_gain": self.without_gain}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.without_gain = state["best"], state["without_gain"]
