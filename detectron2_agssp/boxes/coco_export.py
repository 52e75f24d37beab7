"""The pseudo-boxes of a whole map folder, as COCO json."""

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image, write_coco
from detectron2_agssp.io.masks import encode_mask
from detectron2_agssp.maps.store import MapStore, load_map

# Of AGDP, whose one class has the id 1.
CLASSES = ("anomaly",)


def pseudo_boxes_as_coco(
    cfg, map_root: str | Path, *, masks: bool = False, progress: bool = True
) -> dict:
    """COCO dict of a map folder's pseudo-boxes, by ``cfg.AGSSP.BOXES``.

    Every image is listed, also those without boxes. ``file_name`` is relative to the image folder
    (``info.image_root``); boxes are XYWH, absolute pixels; each annotation also has its ``score``
    (the map's maximum inside the box). The one category is ``anomaly``, id 1. With ``masks`` there
    are ``segmentation``, the component that gave the box as run lengths, and its ``area``.
    """
    store = MapStore(map_root)
    rule = BoxRule.from_config(cfg, map_root)
    images: list[dict] = []
    annotations: list[dict] = []
    entries = tqdm(store.entries(), desc="boxes", unit="img", disable=not progress)
    for image_id, entry in enumerate(entries, start=1):
        size = {"height": entry["height"], "width": entry["width"]}
        images.append(coco_image(image_id, entry["image"], **size))
        full = resize_map(load_map(store.root / entry["map"]), **size)
        boxes, scores = rule(full, **size, source=entry["source"])
        more: list[dict] = [{} for _ in boxes]
        if masks:
            more = [
                {"segmentation": encode_mask(mask), "area": int(mask.sum())}
                for mask in rule.masks(full, boxes, entry["source"])
            ]
        for (x0, y0, x1, y1), score, of_mask in zip(
            boxes.tolist(), scores.tolist(), more, strict=True
        ):
            bbox = [x0, y0, x1 - x0, y1 - y0]
            place = len(annotations) + 1, image_id, 1, bbox
            annotations.append(coco_annotation(*place, score=round(score, 5), **of_mask))
    scorer = store.read_scorer() or {}
    return {
        "info": {
            "description": "Pseudo-boxes of anomaly maps, made by detectron2_agssp",
            "image_root": scorer.get("image_root", ""),
            "threshold": rule.mean_threshold,
            **({"thresholds": dict(rule.threshold)} if isinstance(rule.threshold, Mapping) else {}),
        },
        "images": images,
        "annotations": annotations,
        "categories": coco_categories(CLASSES),
    }


def write_pseudo_boxes(cfg, map_root: str | Path, path: str | Path, *, masks: bool = False) -> dict:
    """Writes :func:`pseudo_boxes_as_coco` to ``path``, atomically; returns it."""
    content = pseudo_boxes_as_coco(cfg, map_root, masks=masks)
    write_coco(path, content)
    return content
