"""What :func:`~detectron2_agssp.pretrain` trains with: the configs of a detector, the measured
recipe, and the user's options, by stage."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from detectron2_agssp.engine.cost import Cost, num_cores, readable_time
from detectron2_agssp.engine.runs import run_config
from detectron2_agssp.io.config_files import config_names, config_path
from detectron2_agssp.utils.suggestions import did_you_mean

STAGES = ("MAPS", "AGBP", "ENERGY", "AGDP")
# The shipped configs' iterations are for the training images of NEU-DET.
NEU_DET_IMAGES = 1241
# Fewer iterations on a small folder would leave a new head at its random weights.
MIN_ITERATIONS = {"AGBP": 100, "AGDP": 200}
# On a CPU; what does not fit is cut, and said.
MAX_HOURS = 4
# benchmarks/few_label, agssp_rounds_long on NEU-DET: what gained most of all starts. Boxes of
# energies, with a margin and extents of their own (benchmarks/notebook.md), learned for 8 epochs by
# a backbone frozen to res2 at most.
ROUNDS_EPOCHS = 8
ROUNDS_FREEZE_AT, ROUNDS_MARGIN, ROUNDS_EXTENT = 2, 0.4, 0.5
# On detections (engine/self_training.py).
BOX_ROUNDS = 1
# The paper's: boxes of the maps, a frozen backbone (the config's), 10 epochs.
PUBLISHED_EPOCHS = 10
# There, with 200 iterations of 16; other backbones have epochs in their configs, the paper's 200 or
# fewer on a CPU.
AGBP_EPOCHS = {"lite0": 3}
# Cells of 16 pixels are fine enough for images as small as NEU-DET's (200 pixels); larger ones are
# scored at the size of configs/maps/energy.yaml.
SMALL_IMAGE, SMALL_ENERGY_SIZE = 256, 256


@dataclass(frozen=True)
class Options:
    """KEY VALUE pairs by stage, "" for those of all stages."""

    by_stage: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, pairs: Iterable[Any]) -> "Options":
        """Sorts ``[key, value, ...]``. A key may begin with the stage that it is meant for:
        ``AGDP.SOLVER.MAX_ITER``. ``AGSSP.SCORER`` and ``AGSSP.CALIBRATION`` without a stage are
        those of the first maps.

        Raises:
            ValueError: an odd number, or a key that no config has (the nearest is named).
        """
        pairs = list(pairs)
        if len(pairs) % 2:
            raise ValueError(f"Options are KEY VALUE pairs; {pairs[-1]!r} has no value.")
        by_stage: dict[str, dict[str, Any]] = {}
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            stage, _, rest = str(key).partition(".")
            if stage not in STAGES:
                of_maps = str(key).startswith(("AGSSP.SCORER.", "AGSSP.CALIBRATION."))
                stage, rest = "MAPS" if of_maps else "", str(key)
            _check_key(rest)
            by_stage.setdefault(stage, {})[rest] = value
        return cls(by_stage)

    @property
    def common(self) -> dict[str, Any]:
        return self.by_stage.get("", {})

    def of(self, stage: str) -> dict[str, Any]:
        """What the user set for a stage, in whichever way."""
        return {**self.common, **self.by_stage.get(stage, {})}


@dataclass(frozen=True)
class Recipe:
    """The configs of a detector and the keys that differ.

    Args:
        detector: one of :func:`detector_names`.
        rounds: of AGBP.
        options: the user's, which win.
    """

    detector: str
    rounds: int
    options: Options

    @property
    def backbone(self) -> str:
        """The name of its AGBP config: ``lite0``."""
        return _backbone_of(self.detector)

    @property
    def maps_path(self) -> str:
        return str(config_path("maps/mahalanobis.yaml"))

    @property
    def agbp_path(self) -> str:
        return str(config_path(f"agbp/{self.backbone}.yaml"))

    @property
    def agdp_path(self) -> str:
        return str(config_path(f"agdp/{self.detector}.yaml"))

    @property
    def box_rounds(self) -> int:
        """Of AGDP."""
        return int(self.options.of("AGDP").get("AGSSP.BOXES.ROUNDS", BOX_ROUNDS))

    def check_options(self) -> None:
        """
        Raises:
            ValueError: a value is of another type than its key's, or out of its range.
        """
        paths = {"MAPS": self.maps_path, "AGDP": self.agdp_path}
        for stage in STAGES:
            run_config(paths.get(stage, self.agbp_path), "", self.options.of(stage))
        if self.box_rounds < 1:
            raise ValueError(f"AGSSP.BOXES.ROUNDS must be at least 1, got {self.box_rounds}.")

    def own(self, stage: str) -> dict[str, Any]:
        """The recipe's keys for a stage, without those that the user sets."""
        own: dict[str, Any] = {"SEED": 1, "MODEL.DEVICE": device()}
        own["DATALOADER.NUM_WORKERS"] = 0 if device() == "cpu" else min(8, num_cores())
        if stage == "AGDP" and self.rounds > 1:
            frozen = run_config(self.agdp_path, "", {}).MODEL.BACKBONE.FREEZE_AT
            own["MODEL.BACKBONE.FREEZE_AT"] = min(frozen, ROUNDS_FREEZE_AT)
            own["AGSSP.BOXES.MARGIN"] = ROUNDS_MARGIN
            own["AGSSP.BOXES.EXTENT"] = ROUNDS_EXTENT
        given = self.options.of(stage)
        return {key: value for key, value in own.items() if key not in given}

    def energy_options(self, short_side: int) -> dict[str, Any]:
        """Keys of the maps of a further round, by ``configs/maps/energy.yaml``.

        Args:
            short_side: of a typical image, pixels.
        """
        shipped = yaml.safe_load(config_path("maps/energy.yaml").read_text())["AGSSP"]["SCORER"]
        scorer = {f"AGSSP.SCORER.{key}": value for key, value in shipped.items()}
        if short_side <= SMALL_IMAGE:
            scorer["AGSSP.SCORER.IMAGE_SIZE"] = SMALL_ENERGY_SIZE
        # Its heads have no part in the energies.
        scorer["AGSSP.PRETEXT.NAME"] = ""
        return {**self.own("ENERGY"), **scorer, **self.options.of("ENERGY")}

    def schedule(
        self, stage: str, num_images: int, cost: Cost, processes: int = 1
    ) -> tuple[dict[str, Any], str]:
        """Batch, iterations and what depends on them.

        Args:
            stage: "AGBP" or "AGDP".
            num_images: to train on.
            cost: of an image.
            processes: that a batch is shared between; on GPUs, each has memory of its own.

        Returns:
            the keys, without those that the user sets, and what to say of them.
        """
        given = self.options.of(stage)
        shipped = get_cfg()
        shipped.merge_from_file(self.agbp_path if stage == "AGBP" else self.agdp_path)
        solver, where = shipped.SOLVER, given.get("MODEL.DEVICE", device())
        batch = int(given.get("SOLVER.IMS_PER_BATCH") or 0)
        if not batch:
            shares = 1 if where == "cpu" else processes
            batch = shares * cost.affordable(math.ceil(solver.IMS_PER_BATCH / shares), where)
            batch = processes * math.ceil(batch / processes)
        counted = shipped.AGSSP.SOLVER
        epochs = counted.EPOCHS or solver.MAX_ITER * solver.IMS_PER_BATCH / NEU_DET_IMAGES
        if "AGSSP.SOLVER.EPOCHS" in given:
            epochs = float(given["AGSSP.SOLVER.EPOCHS"])
        elif stage == "AGDP":
            epochs = ROUNDS_EPOCHS if self.rounds > 1 else PUBLISHED_EPOCHS
        elif self.backbone in AGBP_EPOCHS:
            epochs = AGBP_EPOCHS[self.backbone]
        wanted = max(MIN_ITERATIONS[stage], round(epochs * num_images / batch))
        seconds = cost.seconds * batch / processes
        iterations, note = wanted, ""
        if where == "cpu" and wanted * seconds > 3600 * MAX_HOURS:
            iterations = max(MIN_ITERATIONS[stage], int(3600 * MAX_HOURS / seconds))
            note = (
                f"; {wanted:,} would take {readable_time(wanted * seconds)} on this CPU: "
                f"{stage}.SOLVER.MAX_ITER {wanted} to have them"
            )
        if "SOLVER.MAX_ITER" in given:
            iterations, note = int(given["SOLVER.MAX_ITER"]), ""
        shrink = batch / solver.IMS_PER_BATCH
        warmup = math.ceil(counted.WARMUP_EPOCHS * num_images / batch) or solver.WARMUP_ITERS
        # Of few iterations, several may fall together.
        scaled = {round(step * iterations / solver.MAX_ITER) for step in solver.STEPS}
        steps = {step for step in scaled if 0 < step < iterations}
        chosen = {
            "AGSSP.SOLVER.EPOCHS": 0.0,  # which these iterations are
            "SOLVER.IMS_PER_BATCH": batch,
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.STEPS": tuple(sorted(steps)),
            "SOLVER.WARMUP_ITERS": min(warmup, iterations // 4),
            "SOLVER.CHECKPOINT_PERIOD": max(1, min(solver.CHECKPOINT_PERIOD, iterations // 4)),
            # Of a batch that had to be made smaller.
            "SOLVER.BASE_LR": solver.BASE_LR * min(1, shrink),
        }
        text = f"{iterations:,} iterations of {batch} images{note}"
        return {key: value for key, value in chosen.items() if key not in given}, text


def device() -> str:
    """Where training runs unless MODEL.DEVICE says otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def detector_names() -> list[str]:
    """Detectors with configs for AGDP and fine-tuning, and on a backbone with one for AGBP."""
    files = config_names()
    names = [path[5:-5] for path in files if path.startswith("agdp/")]
    return [name for name in names if f"finetune/{name}.yaml" in files and _backbone_of(name)]


def check_detector(detector: str) -> None:
    """
    Raises:
        ValueError: there is no such detector; the nearest is named.
    """
    names = detector_names()
    if detector not in names:
        hint = did_you_mean(detector, names) or f" There are: {', '.join(names)}."
        raise ValueError(f"There is no detector {detector!r} in configs/agdp.{hint}")


def _backbone_of(detector: str) -> str:
    """The longest name of an AGBP config that is part of the detector's; "" without any."""
    names = [path[5:-5] for path in config_names() if path.startswith("agbp/")]
    inside = [name for name in names if f"_{name}_" in f"_{detector}_"]
    return max(inside, key=len, default="")


def _check_key(key: str) -> None:
    keys = list(_keys_of(get_cfg()))
    if key not in keys:
        raise ValueError(f"No config has a key {key!r}.{did_you_mean(key, keys)}")


def _keys_of(node: CfgNode, prefix: str = "") -> Iterable[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
