"""The whole method in order, once: maps, AGBP, further rounds, AGDP."""

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.boxes.threshold import map_statistics, source_statistics
from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.engine.clock import Clock, Pace
from detectron2_agssp.engine.cost import Cost, free_memory, measure_cost, num_cores, readable_time
from detectron2_agssp.engine.pretrain_record import (
    RECORD,
    checked_record,
    files_of,
    skipped_images,
)
from detectron2_agssp.engine.processes import of_main
from detectron2_agssp.engine.recipe import Options, Recipe, check_detector, device
from detectron2_agssp.engine.runs import is_finished, run_config
from detectron2_agssp.engine.stages import (
    energy_maps_config,
    make_maps,
    maps_finished,
    train_on_detections,
    train_on_maps,
    training_config,
)
from detectron2_agssp.evaluation import verdict
from detectron2_agssp.evaluation.box_statistics import box_statistics
from detectron2_agssp.io.files import only_run, user_path, write_json
from detectron2_agssp.io.tar_shards import check_no_archive
from detectron2_agssp.maps.generate import absolute_root
from detectron2_agssp.utils.naming import some_of

_TRAINED = ("AGBP", "AGDP")


@dataclass(frozen=True)
class Pretrained:
    """What :func:`pretrain` made.

    Attributes:
        map_root: map folder that the boxes were cut from.
        backbone: weights of AGBP's backbone, for any detector with that backbone.
        weights: of the detector, for ``MODEL.WEIGHTS`` of the same one with any classes.
        config_file: that fine-tunes the detector, as ``agssp://finetune/NAME.yaml``.
    """

    map_root: Path
    backbone: Path
    weights: Path
    config_file: str


@dataclass(frozen=True)
class _Stage:
    """A map folder to make, or a training run on one.

    Attributes:
        kind: "MAPS", "AGBP", "ENERGY" or "AGDP".
        title: of the printed line.
        root: its folder.
        maps: the map folder that a training learns from.
        start: the AGBP run whose weights it uses.
        before: the round of AGDP whose detections this one learns.
    """

    kind: str
    title: str
    root: Path
    maps: Path | None = None
    start: Path | None = None
    before: Path | None = None

    @property
    def finished(self) -> bool:
        trained = self.kind in ("AGBP", "AGDP")
        return is_finished(self.root) if trained else maps_finished(self.root)


def pretrain(
    images: str | Path,
    output: str | Path,
    *,
    detector: str = "faster_rcnn_lite0_fpn",
    rounds: int = 2,
    options: Sequence[Any] = (),
) -> Pretrained:
    """Pretrains a detector on a folder of images without labels.

    Killed at any moment, the same call goes on; a finished stage is not run again. What it chooses
    (batch, iterations, by the number of images and the machine) and how long it will take is
    printed, and ``options`` overrule it. Called in every process of a run, such as torchrun starts,
    it is one pretraining; their batches are shares of the same size.

    ``rounds=2`` is what gained most on NEU-DET (docs/benchmark.md): AGBP learns the maps of
    ``mahalanobis``, then the energies of its own backbone, and AGDP learns the boxes of the second
    round's energies, backbone frozen to res2. ``rounds=1`` is AGSSP as published: AGBP once, AGDP
    on the boxes of the first maps, backbone frozen. Take that where defects are small and most
    images have none: on Magnetic-Tile the energies' boxes were worse than those of the first maps.

    Args:
        images: folder of images, searched recursively, or archives as of
            :func:`~detectron2_agssp.maps.generate.generate_anomaly_maps`; what cannot be read is
            skipped and named.
        output: folder for everything, outside ``images``.
        detector: a name of ``configs/agdp``.
        rounds: of AGBP, at least 1.
        options: ``[key, value, ...]`` for the configs of all stages, or of one by a prefix: MAPS,
            AGBP, ENERGY (maps of further rounds), AGDP, as in ``AGDP.SOLVER.MAX_ITER``.
            ``AGSSP.SCORER`` and ``AGSSP.CALIBRATION`` without a prefix are the first maps'.
            ``MODEL.WEIGHTS`` without one is what each AGBP starts from, such as
            ``agssp://zoo/NAME.pth``.

    Raises:
        FileNotFoundError: there is no folder ``images``.
        ValueError: it holds no image (that can be used), ``output`` lies in it, or was made of
            other images or with other settings (which are named); an unknown detector or key.
        FloatingPointError: a loss became infinite or NaN.
        ConnectionError: the config's weights cannot be downloaded (which, and what to do, is said).
        OSError: another run is writing to ``output``.
    """
    images, output = absolute_root(images), user_path(output).resolve()
    check_no_archive(output)
    check_detector(detector)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    parsed = Options.parse(options)
    recipe = Recipe(detector, rounds, parsed)
    recipe.check_options()
    settings = {
        "images": images,
        "detector": detector,
        "rounds": rounds,
        "options": {stage or "all": keys for stage, keys in parsed.by_stage.items()},
    }
    with contextlib.ExitStack() as guards:
        if not comm.is_main_process():
            guards.enter_context(contextlib.redirect_stdout(None))

        def begin() -> dict[str, Any]:
            files = files_of(images)
            # A URL is no folder above it.
            if Path(images) in (output, *output.parents):
                raise ValueError(
                    f"The output {output} lies in the image folder {images}, where its pictures "
                    "would be taken for images. Name a folder outside of it."
                )
            guards.enter_context(only_run(output))
            return checked_record(output, settings, files)

        record = of_main(begin)
        return _Run(recipe, images, output, record).run()


class _Run:
    """One call of :func:`pretrain`, its settings checked."""

    def __init__(self, recipe: Recipe, images: str, output: Path, record: dict):
        self.recipe, self.images, self.output, self.record = recipe, images, output, record
        self.stages = self._stages()
        self.processes = comm.get_world_size()

    def _stages(self) -> list[_Stage]:
        maps = self.output / "maps"
        stages = [_Stage("MAPS", "anomaly maps", maps)]
        rounds = self.recipe.rounds
        for number in range(1, rounds + 1):
            suffix, said = (f"_round{number}", f", round {number}") if rounds > 1 else ("", "")
            agbp = self.output / f"agbp{suffix}"
            stages.append(_Stage("AGBP", f"AGBP{said}", agbp, maps))
            if rounds > 1:
                maps = self.output / f"maps{suffix}"
                title = f"maps by the energies of round {number}"
                stages.append(_Stage("ENERGY", title, maps, start=agbp))
        before = None
        for number in range(1, self.recipe.box_rounds + 1):
            is_last = number == self.recipe.box_rounds
            root = self.output / ("agdp" if is_last else f"agdp_round{number}")
            said = f", round {number}" if self.recipe.box_rounds > 1 else ""
            stages.append(_Stage("AGDP", f"AGDP{said}", root, maps, agbp, before))
            before = root
        return stages

    def run(self) -> Pretrained:
        clock = None
        finished = of_main(lambda: [stage.finished for stage in self.stages])
        if not all(finished):
            clock = self._plan(finished)
        for number, stage in enumerate(self.stages, start=1):
            head = f"stage {number} of {len(self.stages)}: {stage.title}"
            if finished[number - 1]:
                print(f"{head}: done", flush=True)
                continue
            print(f"{head}, about {clock.said(number - 1)}", flush=True)
            with clock.stage(number - 1):
                if stage.kind in ("AGBP", "AGDP"):
                    self._train(stage, clock)
                else:
                    self._make_maps(stage)
        last = self.stages[-1]
        pretrained = Pretrained(
            map_root=last.maps,
            backbone=last.start / "backbone_final.pth",
            weights=last.root / "model_final.pth",
            config_file=f"agssp://finetune/{self.recipe.detector}.yaml",
        )
        print(usage(pretrained, self.recipe.options), flush=True)
        return pretrained

    def _plan(self, finished: list[bool]) -> Clock:
        """Chooses schedules, or takes those of the run that is resumed, and says them."""
        height, width = self.record["image_size"]
        where = self.recipe.options.common.get("MODEL.DEVICE", device())
        print(
            f"{self.record['count']:,} images of about {width} x {height} pixels; {num_cores()} "
            f"cores, {free_memory() / 2**30:.1f} GiB free; training on "
            + (where if where != "cpu" or device() != "cpu" else "the CPU, as there is no GPU"),
            flush=True,
        )
        # Before hours of maps, not after them.
        fetch_weights(self._probe_config("AGBP").MODEL.WEIGHTS)
        costs = {kind: measure_cost(self._probe_config(kind), height, width) for kind in _TRAINED}
        # All measure, as models may wait for each other; the first one's figures count.
        costs = of_main(lambda: costs)
        self.record = of_main(lambda: self._with_schedule(costs))
        for kind, text in self.record["said"].items():
            print(f"{kind}: {text}")
        seconds = [self._seconds(stage, costs) / self.processes for stage in self.stages]
        clock = Clock([0.0 if done else s for done, s in zip(finished, seconds, strict=True)])
        print(f"About {readable_time(clock.left(0))} in all.", flush=True)
        return clock

    def _with_schedule(self, costs: dict[str, Cost]) -> dict[str, Any]:
        """The record with the schedules that are chosen now, or were when the run began."""
        record = self.record
        is_new = "schedule" not in record
        if is_new:
            chosen = {
                kind: self.recipe.schedule(kind, record["count"], costs[kind], self.processes)
                for kind in _TRAINED
            }
            record["schedule"] = {kind: keys for kind, (keys, _) in chosen.items()}
            record["said"] = {kind: text for kind, (_, text) in chosen.items()}
        for kind in _TRAINED:
            keys = {**record["schedule"][kind], **self.recipe.options.of(kind)}
            batch = int(keys["SOLVER.IMS_PER_BATCH"])
            if batch % self.processes:
                raise ValueError(
                    f"{kind} has batches of {batch} images (SOLVER.IMS_PER_BATCH), which "
                    f"{self.processes} processes cannot share. Take as many as divide it."
                )
        if is_new:
            write_json(self.output / RECORD, record)
        return record

    def _probe_config(self, kind: str):
        path = self.recipe.agbp_path if kind == "AGBP" else self.recipe.agdp_path
        keys = {**self.recipe.own(kind), **self.recipe.options.of(kind)}
        return run_config(path, self.output, keys)

    def _seconds(self, stage: _Stage, costs: dict[str, Cost]) -> float:
        """An estimate, before anything but a few iterations has been timed."""
        if stage.kind in _TRAINED:
            solver = self._config(stage).SOLVER
            images = solver.IMS_PER_BATCH * solver.MAX_ITER
            if stage.before:
                # To detect is a forward pass, a third of an iteration.
                images += self.record["count"] / 3
            return costs[stage.kind].seconds * images
        # To fit and to score are forward passes, a third of an iteration, of larger images.
        scorer = self._config(stage).AGSSP.SCORER
        crop = np.prod(self._probe_config("AGBP").INPUT.CROP.SIZE)
        pixels = scorer.IMAGE_SIZE**2 / crop
        return 2 / 3 * pixels * costs["AGBP"].seconds * self.record["count"]

    def _config(self, stage: _Stage):
        recipe, kind = self.recipe, stage.kind
        if kind == "MAPS":
            return run_config(recipe.maps_path, self.output, recipe.options.of("MAPS"))
        if kind == "ENERGY":
            energies = recipe.energy_options(min(self.record["image_size"]))
            energies = {**recipe.options.common, **energies}
            if "MODEL.WEIGHTS" not in recipe.options.by_stage.get("ENERGY", {}):
                # Those that the user names are what AGBP starts from.
                energies.pop("MODEL.WEIGHTS", None)
            weights = stage.start / "model_final.pth"
            return energy_maps_config(recipe.agbp_path, self.output, weights, energies)
        common = {**recipe.own(kind), **self.record["schedule"][kind], **recipe.options.common}
        return training_config(
            recipe.agbp_path if kind == "AGBP" else recipe.agdp_path,
            stage.root,
            f"pretrain_{self.output.name}_{stage.maps.name}" + ("_boxes" if kind == "AGDP" else ""),
            weights=stage.start / "model_final.pth" if stage.start else None,
            common=common,
            options=recipe.options.by_stage.get(kind, {}),
        )

    def _make_maps(self, stage: _Stage) -> None:
        make_maps(self._config(stage), self.images, stage.root)
        skipped = skipped_images(stage.root)
        if skipped:
            why = stage.root / "skipped.jsonl"
            print(f"{len(skipped)} images skipped: {some_of(skipped)}; {why} says why")

    def _train(self, stage: _Stage, clock: Clock) -> None:
        cfg = self._config(stage)
        if stage.kind == "AGDP":
            cfg = self._with_sane_margin(cfg, stage.maps)
            boxes = box_statistics(cfg, stage.maps)
            if stage.before:
                print(f"boxes: the {boxes.boxes:,} best detections of the round before")
            else:
                threshold = BoxRule.from_config(cfg, stage.maps).mean_threshold
                print(
                    f"{boxes.boxes:,} boxes in {boxes.with_boxes:,} of {boxes.images:,} images, "
                    f"threshold {threshold:.3f}",
                    *verdict(boxes),
                    sep="\n",
                )
        is_main = comm.is_main_process()
        pace = [Pace(clock, self.stages.index(stage))] if is_main else []
        where = cfg, self.images, stage.maps
        if stage.before:
            train_on_detections(
                *where, stage.before, boxes.boxes_per_image, progress=is_main, hooks=pace
            )
        else:
            train_on_maps(*where, progress=is_main, hooks=pace)

    def _with_sane_margin(self, cfg, map_root: Path):
        """At most half the mean maximum (of the darkest source, where each has a threshold): of
        dark maps, the threshold would be negative."""
        boxes, given = cfg.AGSSP.BOXES, self.recipe.options.of("AGDP")
        if boxes.PER_SOURCE:
            of_sources = source_statistics(map_root).values()
            half = min(statistics.mean_max for statistics in of_sources) / 2
        else:
            half = map_statistics(map_root).mean_max / 2
        if boxes.THRESHOLD_MODE != "mean_max" or "AGSSP.BOXES.MARGIN" in given:
            return cfg
        if half >= boxes.MARGIN:
            return cfg
        cfg = cfg.clone()
        cfg.defrost()
        cfg.AGSSP.BOXES.MARGIN = round(half, 4)
        cfg.freeze()
        return cfg


def usage(pretrained: Pretrained, options: Options) -> str:
    """The lines that put the weights into the user's detector."""
    shape = " ".join(
        f'{key} "{value}"'
        for key, value in options.of("AGDP").items()
        if key.startswith(("MODEL.", "AGSSP.TIMM.", "INPUT.FORMAT"))
        and not key.endswith(("WEIGHTS", "DEVICE", "FREEZE_AT", "NUM_CLASSES"))
    )
    config, weights, run = (
        shlex.quote(str(path))
        for path in (pretrained.config_file, pretrained.weights, pretrained.weights.parents[1])
    )
    return (
        "Pretrained. To fine-tune from it, with your own DATASETS and number of classes:\n"
        "  import detectron2_agssp    # in your train_net.py; then call it with\n"
        f"  --config-file {config}\n"
        f"  MODEL.WEIGHTS {weights}" + (f" {shape}" if shape else "") + "\n"
        "or have that config written, for your own COCO labels:\n"
        f"  agssp init --labels labels.json --from {run} finetune.yaml"
    )
