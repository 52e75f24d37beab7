"""Labelled sets as the sources of one folder, and what boxes are worth by source."""

import random
from pathlib import Path

from benchmarks.corpus.arms import link_images
from detectron2_agssp.evaluation.pseudo_boxes import BoxEvaluation
from detectron2_agssp.io.coco import read_coco, subset, write_coco
from detectron2_agssp.io.files import datasets_root, read_json

IMAGES = 300


def join_sets(output: Path, gc10: Path, seed: int = 0) -> list[str]:
    """Makes ``images`` and ``labels.json`` below ``output``: of :data:`IMAGES` training images each
    of NEU-DET and Magnetic-Tile ($DETECTRON2_DATASETS) and of GC10-DET.

    Args:
        output: folder to write, of links.
        gc10: folder of GC10-DET: images, instances.json, splits.json.
        seed: of the choice of images.

    Returns:
        the names of the sources, which are the first folders.
    """
    prepared = datasets_root()
    places = {
        name: (prepared / name / "images", prepared / name / "annotations/train.json")
        for name in ("neu_det", "magnetic_tile")
    }
    places["gc10"] = (gc10 / "images", gc10 / "instances.json")
    test = set(read_json(gc10 / "splits.json")["test"])
    parts = {}
    for source, (root, labels) in places.items():
        coco = read_coco(labels)
        images = sorted(coco["images"], key=lambda image: image["file_name"])
        if source == "gc10":
            images = [image for image in images if Path(image["file_name"]).stem not in test]
        images = random.Random(seed).sample(images, IMAGES)
        parts[source] = subset(coco, {image["id"] for image in images})
        names = [image["file_name"] for image in images]
        link_images(output / "images", {"corpus": root}, {source: names})
    write_coco(output / "labels.json", joined(parts))
    return list(parts)


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


def source_figures(evaluation: BoxEvaluation, source: str) -> tuple[float, float, float]:
    """Precision and recall of a source's boxes, and the share of its images without a box."""
    images = evaluation.sources[source]
    classes = [of for name, of in evaluation.classes.items() if name.startswith(f"{source}/")]
    recall = sum(of.found for of in classes) / sum(of.labels for of in classes)
    return images.precision or 0.0, recall, images.without_boxes / images.images
