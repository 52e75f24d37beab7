"""AGBP and AGDP on pretraining sets of one and of many sources: what their detectors find.

    python -m benchmarks.corpus.detectors --corpus FOLDER --gc10 FOLDER [--draws 1] [--output DIR]

Folders as of `python -m benchmarks.corpus`, whose output it shares. No detector has seen a label;
each predicts on test images of three sets, and classes are not asked for. Killed at any moment, it
goes on when called again.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.corpus.arms import ARMS, usable_images
from benchmarks.corpus.held_out import held_out_sets
from benchmarks.corpus.measuring import spread
from benchmarks.corpus.training import agbp_config, agdp_config, arm_maps
from benchmarks.machine import describe_machine
from detectron2_agssp import predict
from detectron2_agssp.engine.stages import train_on_maps
from detectron2_agssp.io.files import read_json, write_json
from detectron2_agssp.io.images import list_images

SETS = ("NEU-DET", "Magnetic-Tile", "GC10-DET")
CHOSEN = ("neu_det", "corpus_p0", "corpus_p1", "equal_neu_det", "equal_1", "equal_4", "equal_all")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="a folder per source")
    parser.add_argument("--gc10", type=Path, required=True, help="folder of GC10-DET")
    parser.add_argument("--output", type=Path, default=Path("output/corpus"), help="%(default)s")
    parser.add_argument("--draws", type=int, default=1, help="of images and seeds (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=CHOSEN, default=CHOSEN)
    parser.add_argument("--agbp", type=int, default=200, help="iterations of 8 (%(default)s)")
    parser.add_argument("--agdp", type=int, default=400, help="iterations of 8 (%(default)s)")
    parser.add_argument("--report-only", action="store_true", help="the table, no runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = args.output / "detectors"
    if not args.report_only:
        sets = held_out_sets(args.output, args.gc10)
        references = [path for images, _ in sets.values() for path in images.iterdir()]
        corpus = usable_images(args.corpus, references, args.output / "usable.json")
        for draw in range(args.draws):
            for name in args.arms:
                path = cells / f"{name}_{draw}.json"
                if not path.exists():
                    write_json(path, _measure(args, name, draw, corpus, sets))
                    print(f"{path.stem} finished", flush=True)
    print(f"{describe_machine()}\n\n{report(cells)}")


def _measure(args, name: str, draw: int, corpus, sets) -> dict:
    power = ARMS[name].power
    images, maps = arm_maps(args.output, name, draw, args.corpus, corpus)
    run, dataset = args.output / "detector_runs" / f"{name}_{draw}", f"corpus_{maps.name}"
    cfg = agbp_config(run / "agbp", dataset, draw, power, args.agbp)
    backbone = train_on_maps(cfg, images, maps, progress=False)
    cfg = agdp_config(run / "agdp", dataset, backbone, draw, power, args.agdp)
    train_on_maps(cfg, images, maps, progress=False)
    figures = {key: judge_detections(run / "agdp", *held_out) for key, held_out in sets.items()}
    return {"images": len(list(list_images(images))), "sets": figures}


def judge_detections(run: Path, images: Path, labels: Path) -> dict[str, float]:
    """What a detector's boxes are worth, whatever their class: "ap50", AP at IoU 0.5, and "ar10",
    recall by the ten boxes of the highest score, mean over IoU from 0.5 to 0.95; each in [0, 1].

    Args:
        run: folder of the detector.
        images: folder of held-out images.
        labels: COCO json of their boxes.
    """
    truth = COCO(str(labels))
    ids = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    category = truth.getCatIds()[0]
    found = [
        {
            "image_id": ids[file_name],
            "category_id": category,
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "score": float(score),
        }
        for file_name, result in predict(run, images, threshold=0.0).items()
        for (x0, y0, x1, y1), score in zip(result["boxes"], result["scores"], strict=True)
    ]
    if not found:
        return {"ap50": 0.0, "ar10": 0.0}
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = [1, 10, 100]
    evaluation.evaluate()
    evaluation.accumulate()
    # IoU, recall, class, area, boxes an image; IoU, class, area, boxes.
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return {
        "ap50": float(np.mean(precision[0, :, 0, 0, 2])),
        "ar10": float(np.mean(recall[:, 0, 0, 1])),
    }


def report(cells: Path) -> str:
    """A row per arm: means over its draws, and their standard deviations."""
    rows = []
    for name in CHOSEN:
        draws = [read_json(path) for path in sorted(cells.glob(f"{name}_[0-9].json"))]
        if draws:
            row = [ARMS[name].title, len(draws), f"{draws[0]['images']:,}"]
            for figure in ("ap50", "ar10"):
                row += [spread([100 * d["sets"][key][figure] for d in draws], 1) for key in SETS]
            rows.append(row)
    header = [f"{figure} {key}" for figure in ("AP50", "AR10") for key in ("NEU", "MT", "GC10")]
    return tabulate(
        rows,
        ["pretraining set", "draws", "images", *header],
        tablefmt="github",
        disable_numparse=True,
    )


if __name__ == "__main__":
    main()
