"""A map folder against a folder of masks, or a COCO json, by class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.evaluation.metrics_stream import MapMetrics
from detectron2_agssp.evaluation.truth import ground_truth
from detectron2_agssp.maps.store import MapStore, load_map

METRIC_NAMES = ("auroc", "ap", "f1_max", "aupro")
# The table has three decimals.
VISIBLE_ERROR = 1e-4


def evaluate_map_folder(
    map_root: str | Path, mask_root: str | Path, *, size: int = 256, threshold: int = 127
) -> dict[str, dict[str, float]]:
    """Pixel-level metrics by class: of masks, the map's ``source`` (its image's first folder); of a
    COCO json, its categories.

    Only images that have a mask are judged: ``<mask_root>/<image's relative path>.png`` or another
    image suffix; or labels (boxes, filled, or masks) in a COCO json. Maps are resized bilinearly,
    masks by the nearest pixel. Memory does not grow with the number of images: see
    :func:`map_folder_metrics` for the (small) error of that.

    Args:
        map_root: a map folder.
        mask_root: folder of masks with the layout of the images, or a COCO ``.json``.
        size: maps and masks are compared at size x size pixels; 0 at each image's own size.
        threshold: mask values above it are defect, in [0, 255].

    Returns:
        Class -> metrics of :func:`~detectron2_agssp.evaluation.anomaly_metrics` and ``images``
        (how many); the last key, "mean", is the mean over the classes.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image has a mask, or the masks of a class (named) hold no defect at all.
    """
    return table_of(map_folder_metrics(map_root, mask_root, size=size, threshold=threshold))


def map_folder_metrics(
    map_root: str | Path,
    mask_root: str | Path,
    *,
    size: int = 256,
    threshold: int = 127,
    num_bins: int = 2**16,
) -> dict[str, MapMetrics]:
    """The accumulated metrics of :func:`evaluate_map_folder` by class, in order of its name.

    Args:
        num_bins: of each class'
            :class:`~detectron2_agssp.evaluation.metrics_stream.MapMetrics`, which knows the error
            bound of its figures; memory is 40 bytes a bin and class.
        map_root, mask_root, size, threshold: as there, and so are the errors.
    """
    if size < 0:
        raise ValueError(f"size must be 0 (each image's own) or positive, got {size}.")
    truth = ground_truth(mask_root, threshold)
    metrics: dict[str, MapMetrics] = {}
    for source, anomaly_map, mask in _pairs(MapStore(map_root), truth, size):
        if source not in metrics:
            metrics[source] = MapMetrics(num_bins)
        metrics[source].update(anomaly_map, mask)
    if not metrics:
        raise ValueError(
            f"None of the images of {map_root} has a mask in {mask_root}. {truth.hint}"
        )
    return checked_by_class(metrics, threshold)


def checked_by_class(metrics: dict[str, MapMetrics], threshold: int) -> dict[str, MapMetrics]:
    """``metrics`` in order of the class.

    Raises:
        ValueError: the masks of a class (named), with values above ``threshold`` as defect, hold
            no defect or nothing else.
    """
    for source, of_class in metrics.items():
        try:
            of_class.compute()
        except ValueError as error:
            raise ValueError(
                f"Class {source!r}, {of_class.num_images} masks with values above {threshold} as "
                f"defect: {error} Check the mask threshold, or leave out the masks of this class."
            ) from error
    return dict(sorted(metrics.items()))


def table_of(metrics: dict[str, MapMetrics]) -> dict[str, dict[str, float]]:
    """What :func:`evaluate_map_folder` returns, from accumulated metrics by class."""
    table = {
        source: {**of_class.compute(), "images": of_class.num_images}
        for source, of_class in metrics.items()
    }
    table["mean"] = {
        name: float(np.mean([row[name] for row in table.values()])) for name in METRIC_NAMES
    }
    table["mean"]["images"] = sum(of_class.num_images for of_class in metrics.values())
    return table


def largest_error_bound(metrics: dict[str, MapMetrics]) -> float:
    """Of all figures of all classes, and so of their mean."""
    return max(max(of_class.error_bounds().values()) for of_class in metrics.values())


def _pairs(store, truth, size) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for entry in store.entries():
        known = truth(entry)
        if known is None:
            continue
        name, mask = known
        height, width = (size, size) if size else (entry["height"], entry["width"])
        mask = resize_mask(mask, height, width)
        anomaly_map = resize_map(load_map(store.root / entry["map"]), height, width)
        # Interpolation between two ones may round to slightly more than one.
        yield name, anomaly_map.clip(0, 1), mask


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool -> (height, width) bool, by the nearest pixel."""
    resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized, bool)


def format_table(table: dict[str, dict[str, float]], error_bound: float = 0.0) -> str:
    """The table as aligned text, with a footnote where ``error_bound``, that of all its figures
    (:func:`largest_error_bound`), could show in them."""
    from tabulate import tabulate

    headers = ["class", "images", "AUROC", "AP", "F1-max", "AUPRO"]
    rows = [
        [name, row["images"], *(row[metric] for metric in METRIC_NAMES)]
        for name, row in table.items()
    ]
    # The class may look like a number, and is none.
    table = tabulate(rows, headers, floatfmt=".3f", tablefmt="github", disable_numparse=[0])
    return table + footnote(error_bound)


def footnote(error_bound: float) -> str:
    """A line to follow a table whose figures are right to ``error_bound``; empty where that cannot
    show in them."""
    if error_bound <= VISIBLE_ERROR:
        return ""
    return (
        f"\nScores were sorted into bins: each figure is within {error_bound:.1e} of the exact "
        "one (anomaly_metrics)."
    )
