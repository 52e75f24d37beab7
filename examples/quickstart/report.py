"""The quickstart's HTML reports: tables, and panels of what every stage saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from detectron2_agssp import Pretrained
from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.engine.runs import run_config
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.images import read_image
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.reports import picture, write_page
from detectron2_agssp.reports.figures import bars
from detectron2_agssp.visualization import anomaly_panel
from examples.quickstart.detections import Detector, truth_of

NUM_PANELS = 12


def write_sample_report(
    output: Path,
    data_root: Path,
    pretrained: Pretrained,
    detectors: dict[str, Detector],
    results: dict[str, dict[str, float]],
    seconds: dict[str, float],
) -> Path:
    """Report of the synthetic sample: comparison, detections on test images, pretraining.

    Args:
        output: folder of the report.
        data_root: the sample data set.
        pretrained: of the sample's training images.
        detectors: start -> the fine-tuned detector.
        results: start -> {"AP", "AP50"}.
        seconds: stage -> seconds.
    """
    table = {
        "headers": ["start of fine-tuning", "AP", "AP50", "shown from score"],
        "rows": [
            [start, metrics["AP"], metrics["AP50"], detectors[start].threshold]
            for start, metrics in results.items()
        ],
        "caption": "Box AP on the sample's test images, percent; same detector, labels, rate and "
        "iterations. Below, boxes are shown from the score that has the best F1 on validation "
        "images.",
        "decimals": [0, 1, 1, 2],
        "best": [1, 2],
    }
    sections = [
        {"title": "Result", "table": table, "figures": [_times(seconds)]},
        {
            "title": "Test images",
            "text": ["Truth (green) and detections (orange) from each start."],
            "pictures": _test_panels(data_root, detectors),
        },
    ]
    images = data_root / "images" / "train"
    return write_page(
        output / "report.html",
        "sections.html",
        title="AGSSP quickstart",
        subtitle="Synthetic metal surfaces: it shows that everything runs, not more.",
        sections=[*sections, _pretraining_section(pretrained, images)],
    )


def write_images_report(
    output: Path, images: Path, pretrained: Pretrained, seconds: dict[str, float]
) -> Path:
    """Report of the user's own folder: maps, pseudo-boxes and energies."""
    pretraining = _pretraining_section(pretrained, Path(images))
    pretraining["figures"] = [_times(seconds)]
    return write_page(
        output / "report.html",
        "sections.html",
        title="AGSSP pretraining",
        subtitle=f"Images of {Path(images).name}",
        sections=[pretraining],
    )


def _test_panels(data_root: Path, detectors: dict[str, Detector]) -> list[dict[str, Any]]:
    coco = read_coco(data_root / "annotations" / "test.json")
    panels = []
    for image in _spread(coco["images"]):
        pixels = read_image(data_root / "images" / "test" / image["file_name"])
        truth, _ = truth_of(coco, image)
        for start, detector in detectors.items():
            panel = anomaly_panel(pixels, ground_truth=truth, detections=detector.shown(pixels))
            panels.append(picture(panel, f"{start}: {image['file_name']}"))
    return panels


def _pretraining_section(pretrained: Pretrained, images: Path) -> dict[str, Any]:
    """The highest and other maps of what was pretrained on, with the boxes cut from them."""
    entries = sorted(
        MapStore(pretrained.map_root).entries(), key=lambda entry: entry["score"], reverse=True
    )
    half = NUM_PANELS // 2
    rule = BoxRule.from_config(_config_of(pretrained.weights.parent), pretrained.map_root)
    energies = _Energies(pretrained.backbone.parent)
    panels = []
    for entry in [*entries[:half], *_spread(entries[half:])[:half]]:
        pixels = read_image(images / entry["image"])
        anomaly_map = load_map(pretrained.map_root / entry["map"])
        boxes, scores = rule(anomaly_map, *pixels.shape[:2], entry["source"])
        panel = anomaly_panel(pixels, anomaly_map, boxes, scores, energies=energies(pixels))
        panels.append(picture(panel, f"{entry['image']}, score {entry['score']:.2f}"))
    return {
        "title": "Pretraining",
        "text": [
            "Each row: image, map, overlay, the boxes that AGDP learns, energy of res4 before "
            "(ImageNet) and after AGBP. First the images with the highest scores, then others."
        ],
        "values": {
            "images": len(entries),
            "box threshold": f"{rule.threshold:.3f}",
            "backbone": str(pretrained.backbone),
            "detector": str(pretrained.weights),
            "fine-tune by": pretrained.config_file,
        },
        "pictures": panels,
    }


class _Energies:
    """Energy maps of an image before and after an AGBP run.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path):
        self.cfg = _config_of(run)
        self.models = {
            "energy before": load_trained(self.cfg, ""),
            "energy after AGBP": load_trained(self.cfg, run / "model_final.pth"),
        }

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        inputs = model_input(self.cfg, image)
        name = self.cfg.AGSSP.DISTILL.IN_FEATURES[0]
        return {
            title: model([inputs])[0]["energies"][name].cpu().numpy()
            for title, model in self.models.items()
        }


def _config_of(run: Path) -> CfgNode:
    return run_config(run / "config.yaml", run, {})


def _spread(items: Sequence) -> list:
    """At most ``NUM_PANELS`` items, evenly over the list."""
    step = max(1, len(items) // NUM_PANELS)
    return list(items[::step][:NUM_PANELS])


def _times(seconds: dict[str, float]) -> tuple:
    return bars(list(seconds), list(seconds.values()), x_label="seconds"), "Time per stage."
