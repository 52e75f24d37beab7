"""The tasks of a benchmark, in the order in which their results are wanted."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.few_label.arms import REFERENCE, Maps, Pretraining
from benchmarks.few_label.data import cell_name, labeled_split
from benchmarks.few_label.training import Workspace
from detectron2_agssp.io.files import write_json


@dataclass(frozen=True)
class MapTask:
    """A folder of anomaly maps."""

    maps: Maps

    @property
    def name(self) -> str:
        return self.maps.name

    def done(self, space: Workspace, results: Path) -> bool:
        return space.maps_done(self.maps)

    def ready(self, space: Workspace, results: Path) -> bool:
        return space.is_trained(self.maps.start)

    def run(self, space: Workspace, results: Path) -> str:
        space.make_maps(self.maps)
        return "maps made"


@dataclass(frozen=True)
class PretrainingTask:
    """One pretraining run."""

    pretraining: Pretraining

    @property
    def name(self) -> str:
        return f"pretraining_{self.pretraining.name}"

    def done(self, space: Workspace, results: Path) -> bool:
        return space.is_trained(self.pretraining)

    def ready(self, space: Workspace, results: Path) -> bool:
        run = self.pretraining
        return (
            space.is_trained(run.start)
            and space.is_trained(run.before)
            and space.maps_done(run.maps)
        )

    def run(self, space: Workspace, results: Path) -> str:
        space.pretrain(self.pretraining)
        return "weights ready"


class _RecordedTask:
    """A task that is done where its json is: ``name`` in the results' ``folder``."""

    folder: ClassVar[str]
    name: str

    def path(self, results: Path) -> Path:
        return results / self.folder / f"{self.name}.json"

    def done(self, space: Workspace, results: Path) -> bool:
        return self.path(results).exists()


@dataclass(frozen=True)
class CandidateTask(_RecordedTask):
    """A learning rate for an arm and a fraction, tried on the first draw and seed."""

    folder = "candidates"

    arm: str
    fraction: float
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.arm}_{self.fraction:g}pct_lr{self.learning_rate:g}"

    def ready(self, space: Workspace, results: Path) -> bool:
        return space.is_trained(space.pretraining_of(self.arm))

    def run(self, space: Workspace, results: Path) -> str:
        benchmark = space.benchmark
        cfg = space.fine_tuning_config(
            self.arm, self.fraction, benchmark.draws[0], benchmark.seeds[0], self.learning_rate
        )
        outcome = space.fine_tune(cfg)
        candidate = {
            "arm": self.arm,
            "fraction": self.fraction,
            "learning_rate": self.learning_rate,
            **outcome,
        }
        write_json(self.path(results), candidate)
        return _line("validation", outcome["validation"])


@dataclass(frozen=True)
class CellTask(_RecordedTask):
    """An arm, a fraction, a draw and a seed: fine-tuned at the chosen rate, tested."""

    folder = "cells"

    arm: str
    fraction: float
    draw: int
    seed: int
    candidates: tuple[CandidateTask, ...]

    @property
    def name(self) -> str:
        return cell_name(self.arm, self.fraction, self.draw, self.seed)

    def ready(self, space: Workspace, results: Path) -> bool:
        # The weights are missing where only the results of an earlier machine were kept.
        return space.is_trained(space.pretraining_of(self.arm)) and all(
            candidate.done(space, results) for candidate in self.candidates
        )

    def run(self, space: Workspace, results: Path) -> str:
        tried = {}
        for candidate in self.candidates:
            outcome = json.loads(candidate.path(results).read_text())
            tried[candidate.learning_rate] = outcome["validation"]["AP"]
        (only, *_) = space.benchmark.learning_rates
        rate = max(tried, key=tried.__getitem__, default=only)
        cfg = space.fine_tuning_config(self.arm, self.fraction, self.draw, self.seed, rate)
        outcome = space.fine_tune(cfg)
        tested = space.test(cfg) if not outcome["diverged"] else {"AP": 0.0, "AP50": 0.0}
        cell = {
            "benchmark": space.benchmark.name,
            "arm": self.arm,
            "fraction": self.fraction,
            "draw": self.draw,
            "seed": self.seed,
            "labeled_images": space.data.num_images(labeled_split(self.fraction, self.draw)),
            "learning_rate": rate,
            "validation_ap_by_learning_rate": {f"{rate:g}": ap for rate, ap in tried.items()},
            "test": tested,
            **outcome,
        }
        write_json(self.path(results), cell)
        return _line("test", tested)


Task = MapTask | PretrainingTask | CandidateTask | CellTask


def tasks_of(space: Workspace, *, validate_only: bool = False) -> Iterator[Task]:
    """All tasks, or all but the cells. What others depend on comes first; then the draws one after
    the other, so that an interrupted benchmark has whole rows rather than whole columns."""
    benchmark = space.benchmark
    starts = filter(None, (space.pretraining_of(arm) for arm in benchmark.arms))
    # By name, in order: arms share what they have in common.
    runs = {run.name: run for start in starts for run in start.chain}
    yield from {run.maps.name: MapTask(run.maps) for run in runs.values()}.values()
    yield from (PretrainingTask(run) for run in runs.values())
    # The reference first: everything is compared with it.
    arms = sorted(benchmark.arms, key=lambda arm: arm != REFERENCE)
    # There is nothing to choose from where there is one.
    rates = benchmark.learning_rates if validate_only or len(benchmark.learning_rates) > 1 else ()
    for fraction in benchmark.fractions:
        candidates = {
            arm: tuple(CandidateTask(arm, fraction, rate) for rate in rates) for arm in arms
        }
        for arm in arms:
            yield from candidates[arm]
        if validate_only:
            continue
        for seed in benchmark.seeds:
            for draw in benchmark.draws_of(fraction):
                for arm in arms:
                    yield CellTask(arm, fraction, draw, seed, candidates[arm])


def _line(where: str, metrics: dict) -> str:
    return f"{where} AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f}"
