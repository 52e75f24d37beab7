"""How long the stages of a pretraining take: estimated, then corrected."""

import contextlib
import sys
import time
from collections.abc import Iterator

from detectron2.engine import HookBase
from tqdm import tqdm

from detectron2_agssp.engine.cost import readable_time


class Clock:
    """Seconds that stages take: estimated, then corrected by those that ended.

    Args:
        estimates: of each stage, 0 of what is done.
    """

    def __init__(self, estimates: list[float]):
        self.estimates = estimates
        self.taken: dict[int, float] = {}

    @property
    def factor(self) -> float:
        """Seconds taken, per second estimated."""
        estimated = sum(self.estimates[index] for index in self.taken)
        return sum(self.taken.values()) / estimated if estimated else 1.0

    def left(self, index: int) -> float:
        """From a stage on."""
        return self.factor * sum(self.estimates[index:])

    def said(self, index: int) -> str:
        own, left = self.factor * self.estimates[index], self.left(index)
        rest = "" if index == len(self.estimates) - 1 else f" of {readable_time(left)} left"
        return f"{readable_time(own)}{rest}"

    @contextlib.contextmanager
    def stage(self, index: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.taken[index] = time.perf_counter() - start


class Pace(HookBase):
    """Says once, after some iterations, how long the stage takes where the estimate was wrong."""

    AFTER, WRONG = 10, 1.3

    def __init__(self, clock: Clock, index: int):
        self.clock, self.index = clock, index

    def after_step(self) -> None:
        done = self.trainer.iter + 1 - self.trainer.start_iter
        if done == 2:
            self.start = time.perf_counter()
        if done == self.AFTER:
            pace = (time.perf_counter() - self.start) / (done - 2)
            estimate = self.clock.factor * self.clock.estimates[self.index]
            measured = pace * (self.trainer.max_iter - self.trainer.start_iter)
            if not 1 / self.WRONG < measured / max(estimate, 1e-9) < self.WRONG:
                # Standard output is turned off while training.
                tqdm.write(f"now about {readable_time(measured)} for this stage", file=sys.stderr)
