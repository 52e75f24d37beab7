"""The quickstart's HTML reports: tables, and panels of what every stage saw."""

import json
from pathlib import Path

import numpy as np
import torch

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.io.images import read_image
from detectron2_agssp.maps.calibration import Calibration
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer
from detectron2_agssp.maps.geometry import resize_to_square
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.reports import picture, write_page
from detectron2_agssp.reports.figures import bars
from detectron2_agssp.visualization import anomaly_panel

NUM_PANELS = 12
# Of each image the best are drawn: a detector of a few iterations finds everything everywhere.
MIN_DETECTION_SCORE = 0.3
MAX_DETECTIONS = 8


def write_sample_report(output, data_root, pretraining, detectors, results, seconds) -> Path:
    """Report of the synthetic sample: comparison, panels of test images, settings.

    Args:
        output: folder of the report.
        data_root: the sample data set.
        pretraining: what ``pipeline._pretrain`` returned.
        detectors: start -> (config, weights) of the fine-tuned detectors.
        results: start -> {"AP", "AP50"}.
        seconds: stage -> seconds.
    """
    content = json.loads((data_root / "annotations" / "test.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = _spread([image for image in content["images"] if "normal" not in image["file_name"]])
    models = {start: load_trained(cfg, weights) for start, (cfg, weights) in detectors.items()}
    draw = _PanelPainter(pretraining)
    panels = []
    for image in images:
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        truth = _xyxy([annotation["bbox"] for annotation in annotations])
        pixels = read_image(data_root / "images" / "test" / image["file_name"])
        detections = _detect(models["AGSSP"], detectors["AGSSP"][0], pixels, names)
        kinds = ", ".join(sorted({names[a["category_id"]] for a in annotations}))
        panel = draw(pixels, ground_truth=truth, detections=detections)
        panels.append(picture(panel, f"{image['file_name']}: {kinds}"))
    table = {
        "headers": ["start of fine-tuning", "AP", "AP50"],
        "rows": [[start, metrics["AP"], metrics["AP50"]] for start, metrics in results.items()],
        "caption": "Box AP on the sample's test images, percent; same detector, labels and "
        "iterations.",
        "decimals": 1,
        "best": [1, 2],
    }
    result = {"title": "Result", "table": table, "figures": [_times(seconds)]}
    pictures = {
        "title": "Test images",
        "text": [
            "Each row: image, anomaly map, its overlay, pseudo-boxes, energy of res4 before "
            "(ImageNet) and after AGBP, and the detections of the AGSSP detector (score above "
            f"{MIN_DETECTION_SCORE}) against the truth."
        ],
        "pictures": panels,
    }
    return write_page(
        output / "report.html",
        "sections.html",
        title="AGSSP quickstart",
        subtitle="Synthetic metal surfaces: it shows that everything runs, not more.",
        sections=[result, pictures, _pretraining(pretraining)],
    )


def write_images_report(output, images, pretraining, seconds) -> Path:
    """Report of the user's own folder: maps, pseudo-boxes and energies, and what to do next."""
    entries = list(MapStore(pretraining["map_root"]).entries())
    ranked = sorted(entries, key=lambda entry: -entry["score"])
    draw = _PanelPainter(pretraining)
    half = NUM_PANELS // 2
    sections = [
        {
            "title": "Next",
            "text": usage_hint(pretraining).splitlines(),
            "figures": [_times(seconds)],
        }
    ]
    for title, chosen in (
        ("Most anomalous images", ranked[:half]),
        ("Other images", _spread(ranked[half:])[:half]),
    ):
        panels = []
        for entry in chosen:
            anomaly_map = load_map(pretraining["map_root"] / entry["map"])
            pixels = read_image(Path(images) / entry["image"])
            caption = f"{entry['image']}, score {entry['score']:.2f}"
            panels.append(picture(draw(pixels, anomaly_map), caption))
        sections.append({"title": title, "pictures": panels})
    return write_page(
        output / "report.html",
        "sections.html",
        title="AGSSP pretraining",
        subtitle=f"Images of {Path(images).name}",
        sections=[*sections, _pretraining(pretraining)],
    )


def usage_hint(pretraining: dict) -> str:
    """What to put into a config to start from the pretrained weights."""
    cfg = pretraining["agdp_cfg"]
    return (
        "To fine-tune a detector from these weights, put into its config:\n"
        f'MODEL.WEIGHTS: "{Path(pretraining["agdp"]).resolve()}" (this Faster R-CNN, any number of '
        "classes)\n"
        f'MODEL.WEIGHTS: "{Path(pretraining["backbone"]).resolve()}" (any detector on this '
        "backbone)\n"
        f"MODEL.PIXEL_MEAN: {cfg.MODEL.PIXEL_MEAN}, MODEL.PIXEL_STD: {cfg.MODEL.PIXEL_STD}, "
        f'INPUT.FORMAT: "{cfg.INPUT.FORMAT}"\n'
        "and start from configs/finetune/faster_rcnn_lite0_fpn.yaml with your own DATASETS."
    )


class _PanelPainter:
    """Draws what the scorer, the pseudo-box rule and the two backbones say of an image."""

    def __init__(self, pretraining: dict):
        self.scorer, self.calibration = load_fitted_scorer(
            pretraining["map_cfg"], pretraining["map_root"]
        )
        self.rule = BoxRule.from_config(pretraining["agdp_cfg"], pretraining["map_root"])
        self.cfg = pretraining["agbp_cfg"]
        self.before = load_trained(self.cfg, "")
        self.after = load_trained(self.cfg, pretraining["agbp"])

    def __call__(self, image: np.ndarray, anomaly_map: np.ndarray | None = None, **more):
        """``image`` (H, W, 3) uint8 RGB; the map is scored where it is not given."""
        if anomaly_map is None:
            anomaly_map = score_image(self.scorer, self.calibration, image)
        height, width = image.shape[:2]
        boxes, scores = self.rule(anomaly_map, height, width)
        energies = {
            "energy before": self._energy(self.before, image),
            "energy after AGBP": self._energy(self.after, image),
        }
        return anomaly_panel(image, anomaly_map, boxes, scores, energies=energies, **more)

    @torch.no_grad()
    def _energy(self, model, image: np.ndarray) -> np.ndarray:
        inputs = model_input(self.cfg, image)
        name = self.cfg.AGSSP.DISTILL.IN_FEATURES[0]
        return model([inputs])[0]["energies"][name].cpu().numpy()


@torch.no_grad()
def score_image(scorer, calibration: Calibration, image: np.ndarray) -> np.ndarray:
    """Calibrated map (h, w) of one RGB image (H, W, 3) uint8 by a fitted scorer."""
    pixels = resize_to_square(image, scorer.image_size)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    return calibration(scorer(batch).maps[0].cpu().numpy())


@torch.no_grad()
def _detect(model, cfg, image: np.ndarray, names: dict[int, str]):
    instances = model([model_input(cfg, image)])[0]["instances"].to("cpu")
    instances = instances[instances.scores > MIN_DETECTION_SCORE][:MAX_DETECTIONS]
    # Detectron2's contiguous class i is the i-th category id in rising order.
    ordered = [names[key] for key in sorted(names)]
    labels = [
        f"{ordered[kind]} {score:.2f}"
        for kind, score in zip(
            instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
        )
    ]
    return instances.pred_boxes.tensor.numpy(), labels


def _xyxy(boxes: list[list[float]]) -> np.ndarray:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    array[:, 2:] += array[:, :2]
    return array


def _spread(items: list) -> list:
    """At most ``NUM_PANELS`` items, evenly over the list."""
    step = max(1, len(items) // NUM_PANELS)
    return items[::step][:NUM_PANELS]


def _times(seconds: dict[str, float]) -> tuple:
    return bars(list(seconds), list(seconds.values()), x_label="seconds"), "Time per stage."


def _pretraining(pretraining: dict) -> dict:
    boxes = pretraining["pseudo_boxes"]
    return {
        "title": "Pretraining",
        "values": {
            "images": len(boxes["images"]),
            "pseudo-boxes": len(boxes["annotations"]),
            "box threshold": boxes["info"]["threshold"],
            "backbone": str(pretraining["backbone"]),
            "detector": str(pretraining["agdp"]),
        },
        "details": {"Settings of the maps": str(pretraining["map_cfg"].AGSSP)},
    }
