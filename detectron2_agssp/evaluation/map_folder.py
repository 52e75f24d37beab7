"""A map folder against a folder of masks, or a COCO json, by class."""

from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.evaluation.metrics_stream import MapMetrics
from detectron2_agssp.evaluation.tables import format_rows
from detectron2_agssp.evaluation.truth import ground_truth
from detectron2_agssp.maps.store import MapStore, load_map

METRIC_NAMES = ("auroc", "ap", "f1_max", "aupro")


def evaluate_map_folder(
    map_root: str | Path, mask_root: str | Path, *, size: int = 256, threshold: int = 127
) -> dict[str, dict[str, float]]:
    """Pixel-level metrics by class: of masks, the map's ``source`` (its image's first folder); of a
    COCO json, its categories.

    Only images that have a mask are judged: ``<mask_root>/<image's relative path>.png`` or another
    image suffix; or labels (boxes, filled, or masks) in a COCO json. Maps are resized bilinearly,
    masks by the nearest pixel. Memory does not grow with the number of images.

    Args:
        map_root: a map folder.
        mask_root: folder of masks with the layout of the images, or a COCO ``.json``.
        size: maps and masks are compared at size x size pixels; 0 at each image's own size.
        threshold: mask values above it are defect, in [0, 255].

    Returns:
        Class -> metrics of :func:`~detectron2_agssp.evaluation.anomaly_metrics` and ``images``
        (how many), in order of the class' name; the last key, "mean", is the mean over the classes.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image has a mask, or the masks of a class (named) hold no defect at all.
    """
    if size < 0:
        raise ValueError(f"size must be 0 (each image's own) or positive, got {size}.")
    truth, store = ground_truth(mask_root, threshold), MapStore(map_root)
    metrics: dict[str, MapMetrics] = {}
    for entry in store.entries():
        known = truth(entry)
        if known is None:
            continue
        name, mask = known
        height, width = (size, size) if size else (entry["height"], entry["width"])
        anomaly_map = resize_map(load_map(store.root / entry["map"]), height, width)
        # Interpolation between two ones may round to slightly more than one.
        metrics.setdefault(name, MapMetrics()).update(
            anomaly_map.clip(0, 1), resize_mask(mask, height, width)
        )
    truth.warn_left_out()
    if not metrics:
        raise ValueError(
            f"None of the images of {map_root} has a mask in {mask_root}. {truth.hint}"
        )
    return table_of(metrics, threshold)


def table_of(metrics: dict[str, MapMetrics], threshold: int) -> dict[str, dict[str, float]]:
    """What :func:`evaluate_map_folder` returns, from the accumulated metrics of each class.

    Raises:
        ValueError: the masks of a class (named), with values above ``threshold`` as defect, hold
            no defect or nothing else.
    """
    table = {}
    for name, class_metrics in sorted(metrics.items()):
        try:
            table[name] = {**class_metrics.compute(), "images": class_metrics.num_images}
        except ValueError as error:
            raise ValueError(
                f"Class {name!r}, {class_metrics.num_images} masks with values above {threshold} "
                f"as defect: {error} Check the mask threshold, or leave out the masks of this "
                "class."
            ) from error
    rows = list(table.values())
    means = {name: float(np.mean([row[name] for row in rows])) for name in METRIC_NAMES}
    return {**table, "mean": {**means, "images": sum(row["images"] for row in rows)}}


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool -> (height, width) bool, by the nearest pixel."""
    resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized, bool)


def format_table(table: dict[str, dict[str, float]]) -> str:
    """The table as aligned text."""
    headers = ["class", "images", "AUROC", "AP", "F1-max", "AUPRO"]
    rows = [
        [name, row["images"], *(row[metric] for metric in METRIC_NAMES)]
        for name, row in table.items()
    ]
    return format_rows(headers, rows)
