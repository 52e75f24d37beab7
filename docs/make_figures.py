"""Draws the README's pictures of the method and of predictions, docs/figures/method.png and
predictions.png, from a quickstart.

    make quickstart
    python -m docs.make_figures quickstart/sample

The first is one image of the project's own synthetic sample, as the stages of that run see it; the
second, test images of the sample with what agssp predict finds.
"""

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from detectron2_agssp import predict
from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.engine.runs import run_config
from detectron2_agssp.io import read_image
from detectron2_agssp.maps import MapStore, load_map
from detectron2_agssp.visualization import draw_boxes
from examples.quickstart.detections import Detector
from examples.quickstart.sizes import Sizes

FIGURE = Path(__file__).parent / "figures" / "method.png"
PREDICTIONS = FIGURE.with_name("predictions.png")
# Of the predictions: those shown are spread evenly over the test images that have any.
SCORE, SHOWN, HEIGHT = 0.7, 5, 220
WHITE = np.full((HEIGHT, 8, 3), 255, np.uint8)
# No label of it was seen in fine-tuning.
IMAGE = "brushed/brushed_scratch_00115.png"
ARROWS = ("scorer", "AGBP", "boxes of\nthe map", "AGDP,\nyour\nlabels")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of the quickstart on its sample")
    parser.add_argument("--image", default=IMAGE, help="as in the map folder's manifest")
    args = parser.parse_args()
    FIGURE.parent.mkdir(exist_ok=True)
    figure = draw(stages_of(args.run, args.image))
    figure.savefig(FIGURE, dpi=110)
    # A palette is enough, and a third of the size.
    Image.open(FIGURE).convert("RGB").quantize(256).save(FIGURE, optimize=True)
    predictions = draw_predictions(args.run)
    Image.fromarray(predictions).quantize(128).save(PREDICTIONS, optimize=True)
    for path in (FIGURE, PREDICTIONS):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def stages_of(run: Path, name: str) -> tuple[np.ndarray, dict[str, dict]]:
    """An image (H, W, 3), and title -> what is drawn on it: ``cells`` (h, w) or ``boxes``
    (K, 4)."""
    pretraining, maps = run / "pretraining", run / "pretraining" / "maps"
    entries = list(MapStore(maps).entries())
    entry = next(entry for entry in entries if entry["image"] == name)
    image = read_image(run / "data" / "images" / "train" / entry["image"])
    anomaly_map = load_map(maps / entry["map"])
    rule = BoxRule.from_config(config_of(pretraining / "agdp"), maps)
    boxes, _ = rule(anomaly_map, *image.shape[:2], entry["source"])
    tuned = run / "finetune_agssp"
    detector = Detector(config_of(tuned), tuned / "model_final.pth", Sizes().classes)
    detections, _ = detector.shown(image)
    return image, {
        "unlabelled image": {},
        "anomaly map": {"cells": anomaly_map},
        "energy of the backbone": {"cells": energy_of(pretraining / "agbp", image)},
        "pseudo-boxes": {"boxes": boxes},
        "detections": {"boxes": detections},
    }


@torch.no_grad()
def energy_of(run: Path, image: np.ndarray) -> np.ndarray:
    """(h, w) energy of res4 after an AGBP run."""
    cfg = config_of(run)
    model = load_trained(cfg, run / "model_final.pth")
    return model([model_input(cfg, image)])[0]["energies"]["res4"].cpu().numpy()


def draw_predictions(run: Path) -> np.ndarray:
    """Test images with their detections side by side, RGB uint8."""
    images, classes = run / "data" / "images" / "test", Sizes().classes
    options = ["AGSSP.PREDICT.CLASSES", str(classes), "MODEL.DEVICE", "cpu"]
    found = predict(run / "finetune_agssp", images, threshold=SCORE, options=options)
    names = [name for name, one in found.items() if len(one["scores"])]
    tiles = []
    for name in names[len(names) // (2 * SHOWN) :: len(names) // SHOWN][:SHOWN]:
        image, one = Image.fromarray(read_image(images / name)), found[name]
        factor = HEIGHT / image.height
        large = np.asarray(image.resize((round(image.width * factor), HEIGHT), Image.BICUBIC))
        pairs = zip(one["classes"].tolist(), one["scores"].tolist(), strict=True)
        labels = [f"{classes[kind]} {score:.2f}" for kind, score in pairs]
        tiles += [draw_boxes(large, one["boxes"].numpy() * factor, labels), WHITE]
    return np.hstack(tiles[:-1])


def config_of(run: Path):
    return run_config(run / "config.yaml", run, {"MODEL.DEVICE": "cpu"})


def draw(stages: tuple[np.ndarray, dict[str, dict]]) -> plt.Figure:
    image, panels = stages
    height, width = image.shape[:2]
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 12 / 6.7 * height / width + 0.35))
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.imshow(image)
        if "cells" in panel:
            axis.imshow(resize_map(panel["cells"], height, width), cmap="inferno", alpha=0.75)
        for x1, y1, x2, y2 in panel.get("boxes", ()):
            corner, size = (x1, y1), (x2 - x1, y2 - y1)
            axis.add_patch(plt.Rectangle(corner, *size, fill=False, color="lime", linewidth=2))
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, wspace=0.4, top=0.9, bottom=0.02)
    figure.canvas.draw()
    for text, (left, right) in zip(ARROWS, itertools.pairwise(axes), strict=True):
        start, end = left.get_position().x1 + 0.004, right.get_position().x0 - 0.004
        figure.add_artist(
            plt.matplotlib.patches.FancyArrowPatch(
                (start, 0.42), (end, 0.42), arrowstyle="-|>", mutation_scale=18, color="0.2", lw=2
            )
        )
        figure.text((start + end) / 2, 0.48, text, ha="center", fontsize=9, weight="bold")
    return figure


if __name__ == "__main__":
    main()
