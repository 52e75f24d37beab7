"""Scorers fitted and calibrated on several sources together, or on each: maps and boxes by source.

    python -m benchmarks.corpus.per_source --gc10 FOLDER [--draws N] [--image-size PX]

300 training images each of NEU-DET and Magnetic-Tile ($DETECTRON2_DATASETS) and of GC10-DET are the
three sources of one map folder. Figures are means over the draws of images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.corpus.joined_sets import join_sets, source_figures
from benchmarks.machine import describe_machine
from detectron2_agssp.evaluation.map_folder import evaluate_map_folder
from detectron2_agssp.evaluation.pseudo_boxes import evaluate_pseudo_boxes
from detectron2_agssp.maps.generate import generate_anomaly_maps

SCORERS = {"mahalanobis": {}, "memory": {"CALM_WINDOWS": 16}}
# Fit and calibration of each source.
CHOICES = ((False, False), (True, False), (False, True), (True, True))
# Extents and margins of boxes: the default, and around peaks.
BOXES = ((0.0, 0.1), (0.5, 0.2))


def map_figures(maps: Path, labels: Path, sources: list[str]) -> dict[str, list[float]]:
    """Source -> AUROC and AP of pixels, means over the classes of its labels."""
    table = evaluate_map_folder(maps, labels)
    return {
        source: [
            float(
                np.mean([row[name] for key, row in table.items() if key.startswith(f"{source}/")])
            )
            for name in ("auroc", "ap")
        ]
        for source in sources
    }


def box_figures(cfg, maps: Path, labels: Path, sources: list[str]) -> dict[str, list[float]]:
    """Source, and "all" -> precision, recall at IoU 0.5, and the share of images without a box."""
    found = evaluate_pseudo_boxes(cfg, maps, labels, thresholds=(), progress=False).configured
    figures = {source: list(source_figures(found, source)) for source in sources}
    figures["all"] = [found.all_images.precision or 0, found.all_labels.recall or 0]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gc10", type=Path, required=True, help="folder of GC10-DET")
    parser.add_argument("--draws", type=int, default=2, help="of the images (%(default)s)")
    parser.add_argument("--image-size", type=int, default=192, help="(%(default)s)")
    parser.add_argument("--scorers", nargs="+", choices=SCORERS, default=list(SCORERS))
    parser.add_argument(
        "--output", type=Path, default=Path("output/per_source"), help="(%(default)s)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    map_rows, box_rows = [], []
    for name in args.scorers:
        for fit, calibration in CHOICES:
            of_maps: list[dict] = []
            of_boxes: dict[tuple, list[dict]] = {choice: [] for choice in BOXES}
            for draw in range(args.draws):
                output = args.output / f"draw{draw}"
                sources = join_sets(output, args.gc10, draw)
                cfg = get_cfg()
                scorer = cfg.AGSSP.SCORER
                scorer.NAME, scorer.IMAGE_SIZE, scorer.DEVICE = name, args.image_size, "cpu"
                scorer.NUM_WORKERS, scorer.PER_SOURCE = 0, fit
                scorer.update(SCORERS[name])
                cfg.AGSSP.CALIBRATION.PER_SOURCE = calibration
                maps = output / f"{name}_{args.image_size}_fit{fit:d}_calibration{calibration:d}"
                generate_anomaly_maps(cfg, output / "images", maps, progress=False)
                of_maps.append(map_figures(maps, output / "labels.json", sources))
                for choice in BOXES:
                    cfg.AGSSP.BOXES.EXTENT, cfg.AGSSP.BOXES.MARGIN = choice
                    found = box_figures(cfg, maps, output / "labels.json", sources)
                    of_boxes[choice].append(found)
            start = [name, *("each its own" if own else "one" for own in (fit, calibration))]
            map_rows.append([*start, *(_mean(of_maps, source) for source in sources)])
            print(map_rows[-1], flush=True)
            for choice, found in of_boxes.items():
                cells = [_mean(found, source) for source in ("all", *sources)]
                box_rows.append([*start, *choice, *cells])
                print(box_rows[-1], flush=True)
    print(f"{describe_machine()}\n")
    start = ["scorer", "fit", "calibration"]
    print("AUROC / AP, means over the classes:\n")
    print(tabulate(map_rows, [*start, *sources], tablefmt="github", disable_numparse=True))
    print("\nPrecision / recall at IoU 0.5 / share of images without a box:\n")
    header = [*start, "extent", "margin", "all", *sources]
    print(tabulate(box_rows, header, tablefmt="github", disable_numparse=True))


def _mean(draws: list[dict[str, list[float]]], source: str) -> str:
    means = np.mean([figures[source] for figures in draws], axis=0)
    return " / ".join(f"{value:.3f}" for value in means)


if __name__ == "__main__":
    main()
