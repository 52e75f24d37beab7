"""The quickstart's two runs: on a synthetic sample with labels, and on a folder without."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from detectron2_agssp import Pretrained, pretrain
from detectron2_agssp.engine.runs import final_metrics, run_config, train
from detectron2_agssp.io.coco import read_coco, register_coco, subset, write_coco
from detectron2_agssp.io.config_files import config_path
from detectron2_agssp.io.files import write_json
from detectron2_agssp.utils.differences import differences
from examples.quickstart import report
from examples.quickstart.detections import Detector, best_score_threshold
from examples.quickstart.sizes import DETECTOR, Sizes
from examples.quickstart.synthetic import generate_sample_dataset
from examples.quickstart.timings import Timings

STARTS = ("ImageNet", "AGSSP")


def run_on_sample(output: Path, sizes: Sizes | None = None) -> dict[str, dict[str, float]]:
    """Makes a sample, pretrains, fine-tunes from ImageNet and from AGSSP alike, prints the table,
    writes ``report.html``.

    Args:
        output: folder for everything; what is finished there is not run again.
        sizes: of the sample and the training.

    Returns:
        Start ("ImageNet", "AGSSP") -> {"AP", "AP50"} on the test images, percent.

    Raises:
        ValueError: ``output`` was made with other sizes.
    """
    sizes = sizes or Sizes()
    _check_sizes(output / "sizes.json", sizes)
    timings = Timings(output / "timings.json")
    data_root = output / "data"
    with timings.measure("sample data"):
        generate_sample_dataset(
            data_root,
            num_train=sizes.num_train,
            num_test=sizes.num_test,
            sizes=sizes.image_sizes,
            classes=sizes.classes,
            surfaces=sizes.surfaces,
        )
    _register(data_root, sizes)
    with timings.measure("pretraining"):
        pretrained = pretrain(
            data_root / "images" / "train",
            output / "pretraining",
            detector=DETECTOR,
            rounds=sizes.rounds,
            options=[part for pair in sizes.pretraining.items() for part in pair],
        )
    results, detectors = {}, {}
    for start in STARTS:
        cfg = _fine_tuning_config(
            output / f"finetune_{start.lower()}",
            sizes,
            str(pretrained.weights) if start == "AGSSP" else "",
        )
        with timings.measure(f"fine-tuning from {start}"):
            weights = train(cfg)
        results[start] = final_metrics(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
        detector = Detector(cfg, weights, sizes.classes)
        detector.threshold = best_score_threshold(
            detector, data_root / "validation.json", data_root / "images" / "train"
        )
        detectors[start] = detector
    print(_results_table(results, sizes, timings))
    with timings.measure("report"):
        path = report.write_sample_report(
            output, data_root, pretrained, detectors, results, timings.seconds
        )
    print(f"Report: {path}")
    return results


def run_on_images(output: Path, images: Path) -> Pretrained:
    """Pretrains on the user's own folder, which needs no labels, and writes ``report.html``.

    Args:
        output: as for :func:`run_on_sample`.
        images: folder of images, searched recursively.
    """
    timings = Timings(output / "timings.json")
    with timings.measure("pretraining"):
        pretrained = pretrain(images, output / "pretraining", detector=DETECTOR)
    with timings.measure("report"):
        path = report.write_images_report(output, images, pretrained, timings.seconds)
    print(f"Report: {path}")
    return pretrained


def _check_sizes(path: Path, sizes: Sizes) -> None:
    """Writes the sizes, or compares them with those of an earlier run."""
    current = json.loads(json.dumps(sizes.record()))
    if not path.exists():
        write_json(path, current)
        return
    changed = [key for key, _, _ in differences(json.loads(path.read_text()), current)]
    if changed:
        raise ValueError(
            f"What is in {path.parent} was made with other sizes ({', '.join(changed)}). Delete "
            "the folder, or name another by --output."
        )


def _register(data_root: Path, sizes: Sizes) -> None:
    """The few labelled images, and the test images; validation images are only written."""
    content = read_coco(data_root / "annotations" / "train.json")
    # In the order of the sample, where the classes take turns: all of them have labels.
    defective = sorted({annotation["image_id"] for annotation in content["annotations"]})
    end = sizes.num_labeled + sizes.num_validation
    few, validation = data_root / "few.json", data_root / "validation.json"
    write_coco(few, subset(content, set(defective[: sizes.num_labeled])))
    write_coco(validation, subset(content, set(defective[sizes.num_labeled : end])))
    register_coco("quickstart_train", few, data_root / "images" / "train")
    test = data_root / "annotations" / "test.json"
    register_coco("quickstart_test", test, data_root / "images" / "test")


def _fine_tuning_config(output: Path, sizes: Sizes, weights: str) -> CfgNode:
    keys: dict[str, Any] = {
        **sizes.fine_tuning,
        "MODEL.WEIGHTS": weights,
        "MODEL.ROI_HEADS.NUM_CLASSES": len(sizes.classes),
        "DATASETS.TRAIN": ("quickstart_train",),
        "DATASETS.TEST": ("quickstart_test",),
    }
    return run_config(config_path(f"finetune/{DETECTOR}.yaml"), output, keys)


def _results_table(results: dict, sizes: Sizes, timings: Timings) -> str:
    seconds = timings.seconds
    rows = [
        [
            start,
            metrics["AP"],
            metrics["AP50"],
            sizes.fine_tuning["SOLVER.MAX_ITER"],
            f"{seconds['pretraining'] if start == 'AGSSP' else 0:.0f} s",
            f"{seconds[f'fine-tuning from {start}']:.0f} s",
        ]
        for start, metrics in results.items()
    ]
    headers = ["start", "AP", "AP50", "iterations", "pretraining", "fine-tuning"]
    note = (
        f"On {sizes.num_test} test images, fine-tuned on {sizes.num_labeled} labelled ones. One "
        "run on synthetic images: docs/benchmark.md has what it brings on real metal."
    )
    return f"\n{tabulate(rows, headers, floatfmt='.1f', tablefmt='github')}\n{note}\n"
