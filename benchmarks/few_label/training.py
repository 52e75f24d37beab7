"""The runs of a benchmark: maps, pretrainings, and fine-tuning from each start."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from benchmarks.few_label.arms import Arm, Maps, Pretraining, pretraining_of
from benchmarks.few_label.control_boxes import dose_of_labels, label_boxes, shuffled_boxes
from benchmarks.few_label.data import BenchmarkData, labeled_split, run_name
from benchmarks.few_label.settings import Benchmark
from benchmarks.machine import describe_machine
from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data import register_unlabeled
from detectron2_agssp.engine.runs import is_finished, read_metrics, run_config, train
from detectron2_agssp.engine.stages import (
    energy_maps_config,
    make_maps,
    maps_finished,
    on_boxes,
    train_on_detections,
    train_on_maps,
    training_config,
)
from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.evaluation.box_statistics import box_statistics
from detectron2_agssp.io.coco import register_coco, write_coco

METRICS = ("AP", "AP50", "AP75")
KEPT_LOSSES = 3


class Workspace:
    """Where a benchmark's runs are, and how each is made.

    Args:
        benchmark: the settings.
        config_root: the repository's ``configs`` folder.
        output: folder of data, maps, weights and logs.
        device: that trains and makes maps, such as "cuda"; None for the configs'.
        progress: show progress bars.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        config_root: str | Path,
        output: str | Path,
        *,
        device: str | None = None,
        progress: bool = True,
    ):
        self.benchmark, self.config_root, self.device = benchmark, Path(config_root), device
        self.output, self.progress = Path(output), progress
        self.data = BenchmarkData(benchmark, self.output / "data")

    def map_root(self, maps: Maps) -> Path:
        return self.output / maps.name

    def maps_done(self, maps: Maps) -> bool:
        return maps_finished(self.map_root(maps))

    def make_maps(self, maps: Maps) -> None:
        """Anomaly maps of the images that pretraining may see."""
        if maps.start:
            path, common = self._stage("agbp")
            options = {**common, **maps.options}
            cfg = energy_maps_config(path, self.output, self.weights_of(maps.start), options)
        else:
            cfg = self._config("maps", self.output, maps.options)
        make_maps(cfg, self.data.unlabeled, self.map_root(maps), progress=self.progress)

    def weights_of(self, run: Pretraining) -> Path:
        return self.output / "pretraining" / run.name / "model_final.pth"

    def is_trained(self, run: Pretraining | None) -> bool:
        """Whether the weights are there to start from; without a run, the config's always are."""
        return run is None or is_finished(self.weights_of(run).parent)

    def pretrain(self, run: Pretraining) -> None:
        """Trains one run, from the weights of the one before it."""
        map_root = self.map_root(run.maps)
        cfg = self.pretraining_config(run)
        if run.before:
            before = self.weights_of(run.before).parent
            of_maps = box_statistics(cfg, map_root).boxes_per_image
            where = self.data.unlabeled, map_root, before
            train_on_detections(cfg, *where, of_maps, progress=self.progress)
        elif run.boxes != "maps":
            cfg = self._with_control_boxes(run, cfg)
            train(cfg, progress=self.progress)
        else:
            train_on_maps(cfg, self.data.unlabeled, map_root, progress=self.progress)

    def _with_control_boxes(self, run: Pretraining, cfg: CfgNode) -> CfgNode:
        """The same training, but on a COCO data set, written beside the weights."""
        map_root = self.map_root(run.maps)
        settings = self.benchmark.data
        labels, dose = settings.folder / settings.train, run.boxes.partition("_")[2]
        if run.boxes == "shuffled":
            coco = shuffled_boxes(cfg, map_root)
        elif dose:
            coco = dose_of_labels(map_root, labels, float(dose))
        else:
            coco = label_boxes(map_root, labels)
        path = Path(cfg.OUTPUT_DIR) / "boxes.json"
        write_coco(path, coco)
        name = self.data.name_of(run.name)
        register_coco(name, path, self.data.unlabeled)
        return on_boxes(cfg, name)

    def pretraining_config(self, run: Pretraining) -> CfgNode:
        split = {"agbp": run.maps.name, "agdp": f"{run.maps.name}_boxes"}[run.stage]
        weights: str | Path | None = None
        if run.start:
            weights = self.weights_of(run.start)
        elif run.stage == "agdp":
            # The shipped config starts from AGBP; here the start is what fine-tuning has.
            weights = self._config("finetune", "", {}).MODEL.WEIGHTS
        path, common = self._stage(run.stage)
        return training_config(
            path,
            self.weights_of(run).parent,
            self.data.name_of(split),
            weights=weights,
            common=common,
            options=run.options,
        )

    def pretraining_of(self, arm: str) -> Pretraining | None:
        """The run that an arm of the benchmark is fine-tuned from, if any."""
        return pretraining_of(self.benchmark.arm(arm))

    def fine_tuning_config(
        self, arm: str, fraction: float, draw: int, seed: int, learning_rate: float
    ) -> CfgNode:
        chosen = self.benchmark.arm(arm)
        key = run_name(arm, fraction, draw, seed, learning_rate)
        num_classes = self.data.num_classes()
        iterations = self._config("finetune", "", {}).SOLVER.MAX_ITER
        if chosen.longer:
            iterations += self.benchmark.extra_iterations
        overrides = {
            "DATASETS.TRAIN": (self.data.name_of(labeled_split(fraction, draw)),),
            "DATASETS.TEST": (self.data.name_of("validation"),),
            "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
            "MODEL.RETINANET.NUM_CLASSES": num_classes,
            "AGSSP.FCOS.NUM_CLASSES": num_classes,
            "AGSSP.YOLO.NUM_CLASSES": num_classes,
            "AGSSP.DINO.NUM_CLASSES": num_classes,
            "SOLVER.BASE_LR": learning_rate,
            "SOLVER.MAX_ITER": iterations,
            "TEST.EVAL_PERIOD": math.ceil(iterations / self.benchmark.validations),
            "SEED": seed,
        }
        if chosen.random:
            overrides.update(self.benchmark.random_options)
        start = self.pretraining_of(arm)
        if start:
            overrides["MODEL.WEIGHTS"] = str(self.weights_of(start))
        if chosen.teacher:
            overrides.update(self._teacher_options(chosen, start))
        overrides.update(chosen.options.get("finetune", {}))
        return self._config("finetune", self.output / "runs" / key, overrides)

    def _teacher_options(self, arm: Arm, start: Pretraining | None) -> dict[str, Any]:
        """Of fine-tuning by a teacher, on the images that pretraining may see."""
        images = str(self.data.unlabeled)
        if start:
            images = self.data.name_of(start.maps.name)
            register_unlabeled(images, self.data.unlabeled, self.map_root(start.maps))
        boxes = {
            key: value
            for key, value in arm.options.get("agdp", {}).items()
            if key.startswith("AGSSP.BOXES.")
        }
        return {
            "MODEL.META_ARCHITECTURE": "TeacherStudent",
            "AGSSP.MAPPER": "TeacherMapper",
            "AGSSP.TEACHER.META_ARCHITECTURE": self._config(
                "finetune", "", {}
            ).MODEL.META_ARCHITECTURE,
            "AGSSP.TEACHER.UNLABELED": (images,),
            # Taken out already.
            "AGSSP.TEACHER.NEAR_DUPLICATES": 0.0,
            **boxes,
        }

    def fine_tune(self, cfg: CfgNode) -> dict[str, Any]:
        """Trains and validates.

        Returns:
            "validation" (AP, AP50, AP75 at the end, percent), "curve" (iteration, AP, AP50 on the
            validation images), "iterations", "seconds_per_iteration", "losses" (the last records),
            "diverged" and "machine". A run whose loss is no number any more has AP 0.
        """
        diverged = False
        try:
            train(cfg, progress=self.progress)
        except FloatingPointError:
            diverged = True
            _remove_intermediate(Path(cfg.OUTPUT_DIR))
        records = read_metrics(cfg.OUTPUT_DIR)
        evaluated = [record for record in records if "bbox/AP" in record]
        # A resumed run repeats the iterations since its last checkpoint; one that had but the last
        # evaluation to do counts that as an iteration.
        end = cfg.SOLVER.MAX_ITER
        curve = {min(one["iteration"], end): one for one in evaluated}
        times = sorted(record["time"] for record in records if "time" in record)
        last = {} if diverged else curve[end]
        return {
            "validation": {name: _percent(last.get(f"bbox/{name}")) for name in METRICS},
            "curve": [
                [iteration, _percent(one["bbox/AP"]), _percent(one["bbox/AP50"])]
                for iteration, one in sorted(curve.items())
            ],
            "iterations": cfg.SOLVER.MAX_ITER,
            "seconds_per_iteration": round(times[len(times) // 2], 4) if times else None,
            "losses": [
                {key: value for key, value in record.items() if "loss" in key or key == "iteration"}
                for record in records
                if "total_loss" in record
            ][-KEPT_LOSSES:],
            "diverged": diverged,
            "machine": describe_machine(cfg.MODEL.DEVICE),
        }

    def test(self, cfg: CfgNode) -> dict[str, Any]:
        """Evaluates a finished run on the test images: AP, AP50, AP75 and "classes" (AP of each),
        in percent; without predictions, zeros."""
        output = Path(cfg.OUTPUT_DIR)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = (self.data.name_of("test"),)
        cfg.OUTPUT_DIR = str(output / "test")
        with contextlib.redirect_stdout(None):
            results = AGSSPTrainer.test(cfg, load_trained(cfg, output / "model_final.pth"))
        boxes = results.get("bbox", {})
        return {
            **{name: _percent(boxes.get(name)) for name in METRICS},
            "classes": {
                key.removeprefix("AP-"): _percent(value)
                for key, value in boxes.items()
                if key.startswith("AP-")
            },
        }

    def _config(self, stage: str, output: str | Path, overrides: Mapping) -> CfgNode:
        path, options = self._stage(stage)
        return run_config(path, output, {**options, **overrides})

    def _stage(self, stage: str) -> tuple[Path, dict[str, Any]]:
        """The config file of a stage, and the benchmark's keys for it."""
        settings = self.benchmark.stages[stage]
        # No setting of the benchmark: where a run was made does not change what it is.
        device = {"MODEL.DEVICE": self.device, "AGSSP.SCORER.DEVICE": self.device}
        options = {**settings.options, **(device if self.device else {})}
        return self.config_root / settings.config, options


def _percent(value: float | None) -> float:
    """Rounded; what is not a number (a class without labels, no prediction at all) is 0."""
    return round(value, 3) if value is not None and math.isfinite(value) else 0.0


def _remove_intermediate(folder: Path) -> None:
    """Checkpoints to resume from; a finished run needs but the last one."""
    for path in folder.glob("model_[0-9]*.pth"):
        path.unlink()
