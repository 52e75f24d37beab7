"""One threshold for the boxes of several sources, or one each: precision and recall by source.

    python -m benchmarks.corpus.thresholds --gc10 FOLDER [--output DIR]

300 training images each of NEU-DET and Magnetic-Tile ($DETECTRON2_DATASETS) and of GC10-DET are the
three sources of one map folder; the labels judge boxes at three margins, with and without extents.
"""

import argparse
from pathlib import Path

import torch
from detectron2.config import get_cfg
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.corpus.joined_sets import join_sets, source_figures
from benchmarks.machine import describe_machine
from detectron2_agssp.evaluation.pseudo_boxes import evaluate_pseudo_boxes
from detectron2_agssp.maps.generate import generate_anomaly_maps

MARGINS = (0.1, 0.2, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gc10", type=Path, required=True, help="folder of GC10-DET")
    parser.add_argument(
        "--output", type=Path, default=Path("output/thresholds"), help="(%(default)s)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    sources = join_sets(args.output, args.gc10)

    cfg = get_cfg()
    scorer, boxes = cfg.AGSSP.SCORER, cfg.AGSSP.BOXES
    scorer.IMAGE_SIZE, scorer.DEVICE, scorer.NUM_WORKERS = 192, "cpu", 0
    maps = args.output / "maps"
    generate_anomaly_maps(cfg, args.output / "images", maps, progress=False)
    rows = []
    for boxes.EXTENT in (0.0, 0.5):
        for boxes.MARGIN in MARGINS:
            for boxes.PER_SOURCE in (False, True):
                found = evaluate_pseudo_boxes(
                    cfg, maps, args.output / "labels.json", thresholds=(), progress=False
                ).configured
                total = f"{found.all_images.precision:.3f} / {found.all_labels.recall:.3f}"
                row = [boxes.EXTENT, boxes.MARGIN, "each its own" if boxes.PER_SOURCE else "one"]
                row.append(total)
                for source in sources:
                    precision, recall, without = source_figures(found, source)
                    row += [f"{precision:.3f} / {recall:.3f}", f"{without:.2f}"]
                rows.append(row)
    header = ["extent", "margin", "threshold", "all"]
    header += [text for source in sources for text in (source, "no box")]
    print(f"{describe_machine()}\n")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
