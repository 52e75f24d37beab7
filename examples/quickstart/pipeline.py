"""The quickstart's two runs: on a synthetic sample with labels, and on a folder without."""

from pathlib import Path

import numpy as np
from tabulate import tabulate

from detectron2_agssp.boxes.coco_export import write_pseudo_boxes
from detectron2_agssp.data.unlabeled import register_unlabeled
from detectron2_agssp.engine.runs import final_metrics, run_config, train
from detectron2_agssp.io.coco import read_coco, register_coco, subset, write_coco
from detectron2_agssp.maps.generate import generate_anomaly_maps
from examples.quickstart import report
from examples.quickstart.stages import (
    AGBP_OVERRIDES,
    DETECTOR_ITERATIONS,
    DETECTOR_OVERRIDES,
    Timings,
)
from examples.quickstart.synthetic import CLASSES, generate_sample_dataset

NUM_TRAIN, NUM_TEST, NUM_LABELED = 160, 60, 40
MAP_OVERRIDES = {"AGSSP.SCORER.IMAGE_SIZE": 256}


def run_on_sample(config_root: Path, output: Path) -> dict[str, dict[str, float]]:
    """Makes a sample, runs all stages and the ImageNet comparison, prints the table, writes
    ``report.html``.

    Args:
        config_root: the repository's ``configs`` folder.
        output: folder for everything.

    Returns:
        Start ("ImageNet", "AGSSP") -> {"AP", "AP50"}, percent.
    """
    timings = Timings(output / "timings.json")
    data_root = output / "data"
    timings.measure(
        "sample data",
        lambda: generate_sample_dataset(data_root, num_train=NUM_TRAIN, num_test=NUM_TEST),
    )
    images = data_root / "images" / "train"
    pretraining = _pretrain(config_root, output, images, timings)
    few = _few_labels(data_root / "annotations" / "train.json", NUM_LABELED)
    register_coco("quickstart_train", few, images)
    test_json = data_root / "annotations" / "test.json"
    register_coco("quickstart_test", test_json, data_root / "images" / "test")

    results, detectors = {}, {}
    for start, weights in (("ImageNet", ""), ("AGSSP", str(pretraining["agdp"]))):
        cfg = run_config(
            config_root / "finetune" / "faster_rcnn_lite0_fpn.yaml",
            output / f"finetune_{start.lower()}",
            {
                **DETECTOR_OVERRIDES,
                "MODEL.WEIGHTS": weights,
                "MODEL.ROI_HEADS.NUM_CLASSES": len(CLASSES),
                "DATASETS.TRAIN": ("quickstart_train",),
                "DATASETS.TEST": ("quickstart_test",),
            },
        )
        final = timings.measure(f"fine-tuning from {start}", lambda cfg=cfg: train(cfg))
        results[start] = final_metrics(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
        detectors[start] = (cfg, final)
    print(_results_table(results, timings))
    path = timings.measure(
        "report",
        lambda: report.write_sample_report(
            output, data_root, pretraining, detectors, results, timings.seconds
        ),
    )
    print(f"Report: {path}")
    return results


def run_on_images(config_root: Path, output: Path, images: Path) -> dict[str, Path]:
    """Maps, boxes and pretraining of the user's own folder; says what to put into a config.

    Args:
        config_root, output: as for :func:`run_on_sample`.
        images: folder of images, searched recursively; no labels are needed.

    Returns:
        "backbone" and "agdp": paths of the weights.
    """
    timings = Timings(output / "timings.json")
    pretraining = _pretrain(config_root, output, images, timings)
    path = timings.measure(
        "report",
        lambda: report.write_images_report(output, images, pretraining, timings.seconds),
    )
    print(f"Report: {path}")
    print(report.usage_hint(pretraining))
    return pretraining


def _pretrain(config_root: Path, output: Path, images: Path, timings: Timings) -> dict:
    """Maps, AGBP and AGDP of a folder; the configs, the weights and the pseudo-boxes."""
    map_root = output / "maps"
    map_cfg = run_config(config_root / "maps" / "mahalanobis.yaml", output, MAP_OVERRIDES)
    summary = timings.measure(
        "anomaly maps", lambda: generate_anomaly_maps(map_cfg, images, map_root)
    )
    print(f"{summary.scored + summary.kept} maps, {summary.skipped} images skipped")
    register_unlabeled("quickstart", images, map_root)
    agbp_cfg = run_config(
        config_root / "agbp" / "lite0.yaml",
        output / "agbp",
        {**AGBP_OVERRIDES, "DATASETS.TRAIN": ("quickstart",), "DATASETS.TEST": ()},
    )
    agbp = timings.measure("AGBP", lambda: train(agbp_cfg))
    agdp_cfg = run_config(
        config_root / "agdp" / "faster_rcnn_lite0_fpn.yaml",
        output / "agdp",
        {
            **DETECTOR_OVERRIDES,
            "MODEL.WEIGHTS": str(agbp),
            "DATASETS.TRAIN": ("quickstart_boxes",),
            "DATASETS.TEST": (),
        },
    )
    boxes = write_pseudo_boxes(agdp_cfg, map_root, output / "pseudo_boxes.json")
    print(f"{len(boxes['annotations'])} pseudo-boxes at {boxes['info']['threshold']:.3f}")
    agdp = timings.measure("AGDP", lambda: train(agdp_cfg))
    return {
        "map_cfg": map_cfg,
        "agbp_cfg": agbp_cfg,
        "agdp_cfg": agdp_cfg,
        "map_root": map_root,
        "agbp": agbp,
        "backbone": output / "agbp" / "backbone_final.pth",
        "agdp": agdp,
        "pseudo_boxes": boxes,
    }


def _few_labels(annotations: Path, count: int) -> Path:
    """A COCO json with ``count`` of the labelled images that have defects, chosen by a seed."""
    content = read_coco(annotations)
    labeled = sorted({annotation["image_id"] for annotation in content["annotations"]})
    chosen = set(np.random.default_rng(0).permutation(labeled)[:count].tolist())
    path = annotations.with_name(f"train_{count}.json")
    write_coco(path, subset(content, chosen))
    return path


def _results_table(results: dict, timings: Timings) -> str:
    seconds = timings.seconds
    rows = []
    for start, metrics in results.items():
        stages = ["AGBP", "AGDP"] if start == "AGSSP" else []
        pretraining = sum(seconds[stage] for stage in [*stages, "anomaly maps"]) if stages else 0
        rows.append(
            [
                start,
                metrics["AP"],
                metrics["AP50"],
                DETECTOR_ITERATIONS,
                f"{pretraining:.0f} s",
                f"{seconds[f'fine-tuning from {start}']:.0f} s",
            ]
        )
    headers = ["start", "AP", "AP50", "iterations", "pretraining", "fine-tuning"]
    note = "Synthetic sample: it shows that everything runs, not how good it is on real metal."
    return f"\n{tabulate(rows, headers, floatfmt='.1f', tablefmt='github')}\n{note}\n"
