"""A map folder against a folder of masks, by class."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.maps.boxes import resize_map
from detectron2_agssp.maps.metrics import anomaly_metrics
from detectron2_agssp.maps.store import MapStore, load_map

METRIC_NAMES = ("auroc", "ap", "f1_max", "aupro")


def evaluate_map_folder(
    map_root: str | Path, mask_root: str | Path, *, size: int = 256, threshold: int = 127
) -> dict[str, dict[str, float]]:
    """Pixel-level metrics by class (the map's ``source``: its image's first folder).

    Only images that have a mask are judged; ``<mask_root>/<image's relative path>.png`` or another
    image suffix. Maps are resized bilinearly, masks by the nearest pixel.

    Args:
        map_root: a map folder.
        mask_root: folder of masks with the layout of the images.
        size: maps and masks are compared at size x size pixels; 0 at each image's own size.
        threshold: mask values above it are defect, in [0, 255].

    Returns:
        Class -> metrics of :func:`~detectron2_agssp.maps.metrics.anomaly_metrics` and ``images``
        (how many); the last key, "mean", is the mean over the classes.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image has a mask, or the masks of a class (named) hold no defect at all.
    """
    if size < 0:
        raise ValueError(f"size must be 0 (each image's own) or positive, got {size}.")
    mask_root = Path(mask_root)
    if not mask_root.is_dir():
        raise FileNotFoundError(f"Mask folder {str(mask_root)!r} does not exist.")
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for source, anomaly_map, mask in _pairs(MapStore(map_root), mask_root, size, threshold):
        pairs.setdefault(source, []).append((anomaly_map, mask))
    if not pairs:
        raise ValueError(
            f"None of the images of {map_root} has a mask in {mask_root}. Masks are found by the "
            "image's relative path with a mask's suffix, e.g. scratches/1.jpg -> scratches/1.png."
        )
    table = {}
    for source, images in sorted(pairs.items()):
        maps, masks = zip(*images, strict=True)
        try:
            table[source] = {**anomaly_metrics(maps, masks), "images": len(images)}
        except ValueError as error:
            raise ValueError(
                f"Class {source!r}, {len(images)} masks with values above {threshold} as defect: "
                f"{error} Check the mask threshold, or leave out the masks of this class."
            ) from error
    table["mean"] = {
        name: float(np.mean([row[name] for row in table.values()])) for name in METRIC_NAMES
    }
    table["mean"]["images"] = sum(len(images) for images in pairs.values())
    return table


def _pairs(store, mask_root, size, threshold) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for entry in store.entries():
        path = find_mask(mask_root, entry["image"])
        if path is None:
            continue
        with Image.open(path) as opened:
            mask = np.asarray(opened.convert("L")) > threshold
        height, width = (size, size) if size else (entry["height"], entry["width"])
        mask = np.asarray(
            Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), bool
        )
        anomaly_map = resize_map(load_map(store.root / entry["map"]), height, width)
        yield entry["source"], anomaly_map, mask


def find_mask(mask_root: Path, image: str) -> Path | None:
    """The mask of an image, by its relative path with any of the usual suffixes."""
    stem = os.path.splitext(image)[0]
    for suffix in (".png", ".bmp", ".tif", ".tiff", ".jpg"):
        path = mask_root / f"{stem}{suffix}"
        if path.exists():
            return path
    return None


def format_table(table: dict[str, dict[str, float]]) -> str:
    """The table as aligned text."""
    from tabulate import tabulate

    headers = ["class", "images", "AUROC", "AP", "F1-max", "AUPRO"]
    rows = [
        [name, row["images"], *(row[metric] for metric in METRIC_NAMES)]
        for name, row in table.items()
    ]
    return tabulate(rows, headers, floatfmt=".3f", tablefmt="github")
