"""Boxes for AGDP that are no pseudo-boxes of the image: controls that tell what those are worth."""

import random
from pathlib import Path

from detectron2_agssp.boxes.coco_export import CLASSES, pseudo_boxes_as_coco
from detectron2_agssp.evaluation.truth import CocoTruth
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image
from detectron2_agssp.maps.store import MapStore

# Of the labels that pretraining does not see, the percents that stay where they are: a dose of map
# quality, to which gains respond. The others go to other images.
DOSES = (75, 50, 25, 0)
# Pseudo-boxes cut from the maps; those of another image; the labels, all of them or a dose.
BOX_SOURCES = ("maps", "shuffled", "labels", *(f"labels_{dose}" for dose in DOSES))


def shuffled_boxes(cfg, map_root: str | Path, seed: int = 0) -> dict:
    """COCO dict in which every image of a map folder has the pseudo-boxes of another: as many, as
    large, at the places where boxes are, but on nothing. What AGDP gains from them is not knowledge
    of defects.

    Args:
        cfg: ``AGSSP.BOXES`` says how boxes are cut.
        map_root: the map folder.
        seed: of the permutation, which is one cycle: with two images or more, none keeps its own.
    """
    coco = pseudo_boxes_as_coco(cfg, map_root, progress=False)
    _move(coco, coco["annotations"], random.Random(seed))
    return coco


def dose_of_labels(map_root: str | Path, labels: str | Path, percent: float, seed: int = 0) -> dict:
    """:func:`label_boxes`, of which that share stays and the others go to another image, as in
    :func:`shuffled_boxes`: as many boxes, of the same sizes, but not all on a defect.

    Args:
        map_root, labels: as :func:`label_boxes`'s.
        percent: that stay, drawn box by box; a smaller share is part of a larger one.
        seed: of the draw and of the permutation.
    """
    coco = label_boxes(map_root, labels)
    generator = random.Random(f"{seed} doses")
    moved = [one for one in coco["annotations"] if generator.random() >= percent / 100]
    _move(coco, moved, random.Random(seed))
    return coco


def _move(coco: dict, annotations: list[dict], generator: random.Random) -> None:
    """Moves some of the annotations to the next image of a random cycle, scaled to its size."""
    images = coco["images"].copy()
    generator.shuffle(images)
    successor = {one["id"]: images[i - 1] for i, one in enumerate(images)}
    size = {one["id"]: (one["width"], one["height"]) for one in images}
    for annotation in annotations:
        width, height = size[annotation["image_id"]]
        other = successor[annotation["image_id"]]
        across, down = other["width"] / width, other["height"] / height
        x, y, w, h = annotation["bbox"]
        annotation["image_id"] = other["id"]
        annotation["bbox"] = [x * across, y * down, w * across, h * down]
        annotation["area"] *= across * down


def label_boxes(map_root: str | Path, labels: str | Path) -> dict:
    """COCO dict of a map folder's images with their true labels as one class: what AGDP could gain
    at most from better maps. Images without labels stay, as negatives; those that the json does not
    have are left out.

    Raises:
        FileNotFoundError, ValueError: ``labels`` is missing or no COCO json, or has none of the
            images.
    """
    truth = CocoTruth(labels)
    images, annotations = [], []
    for number, entry in enumerate(MapStore(map_root).entries(), start=1):
        image = truth.find(entry)
        if image is None:
            continue
        size = {"height": entry["height"], "width": entry["width"]}
        images.append(coco_image(number, entry["image"], **size))
        for label in truth.labels(image):
            crowd = label.get("iscrowd", 0)
            annotations.append(
                coco_annotation(len(annotations) + 1, number, 1, label["bbox"], iscrowd=crowd)
            )
    if not images:
        raise ValueError(f"None of the images of {map_root} is in {labels}. {truth.hint}")
    categories = coco_categories(CLASSES)
    return {"images": images, "annotations": annotations, "categories": categories}
