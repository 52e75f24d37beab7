"""One threshold for the boxes of several sources, or one each: precision and recall by source.

    python -m benchmarks.corpus.thresholds --gc10 FOLDER [--output DIR]

300 training images each of NEU-DET and Magnetic-Tile ($DETECTRON2_DATASETS) and of GC10-DET are the
three sources of one map folder; the labels judge boxes at three margins, with and without extents.
"""

import argparse
import random
from pathlib import Path

import torch
from detectron2.config import get_cfg
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.corpus.arms import link_images
from benchmarks.machine import describe_machine
from detectron2_agssp.evaluation.pseudo_boxes import BoxEvaluation, evaluate_pseudo_boxes
from detectron2_agssp.io.coco import read_coco, subset, write_coco
from detectron2_agssp.io.files import datasets_root, read_json
from detectron2_agssp.maps.generate import generate_anomaly_maps

IMAGES = 300
MARGINS = (0.1, 0.2, 0.3)


def joined(parts: dict[str, dict]) -> dict:
    """COCO dicts as one, whose file names and classes begin with the name of their source."""
    whole: dict = {"images": [], "annotations": [], "categories": []}
    for source, coco in parts.items():
        ids = {}
        for kind in ("images", "categories"):
            first = len(whole[kind]) + 1
            ids[kind] = {entry["id"]: first + n for n, entry in enumerate(coco[kind])}
            key = {"images": "file_name", "categories": "name"}[kind]
            for entry in coco[kind]:
                name = f"{source}/{entry[key].rpartition('/')[2]}"
                whole[kind].append({**entry, "id": ids[kind][entry["id"]], key: name})
        for entry in coco["annotations"]:
            kept = {**entry, "id": len(whole["annotations"]) + 1}
            kept["image_id"] = ids["images"][entry["image_id"]]
            kept["category_id"] = ids["categories"][entry["category_id"]]
            whole["annotations"].append(kept)
    return whole


def by_source(evaluation: BoxEvaluation, source: str) -> list:
    """Precision / recall, and the share of images without a box."""
    images = evaluation.sources[source]
    classes = [of for name, of in evaluation.classes.items() if name.startswith(f"{source}/")]
    recall = sum(of.found for of in classes) / sum(of.labels for of in classes)
    return [
        f"{images.precision or 0:.3f} / {recall:.3f}",
        f"{images.without_boxes / images.images:.2f}",
    ]


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
    prepared = datasets_root()
    places = {
        name: (prepared / name / "images", prepared / name / "annotations/train.json")
        for name in ("neu_det", "magnetic_tile")
    }
    places["gc10"] = (args.gc10 / "images", args.gc10 / "instances.json")
    test = set(read_json(args.gc10 / "splits.json")["test"])
    parts = {}
    for source, (root, labels) in places.items():
        coco = read_coco(labels)
        images = sorted(coco["images"], key=lambda image: image["file_name"])
        if source == "gc10":
            images = [image for image in images if Path(image["file_name"]).stem not in test]
        images = random.Random(0).sample(images, IMAGES)
        parts[source] = subset(coco, {image["id"] for image in images})
        names = [image["file_name"] for image in images]
        link_images(args.output / "images", {"corpus": root}, {source: names})
    write_coco(args.output / "labels.json", joined(parts))

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
                row += [total, *(cell for source in parts for cell in by_source(found, source))]
                rows.append(row)
    header = ["extent", "margin", "threshold", "all"]
    header += [text for source in parts for text in (source, "no box")]
    print(f"{describe_machine()}\n")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
