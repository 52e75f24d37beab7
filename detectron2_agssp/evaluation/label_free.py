"""What a map folder says about itself, without labels: figures to choose a scorer and a threshold
by, before training.

Shapes: (h, w) a map's own grid, (H, W) its image, K boxes.
"""

import bisect
import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou
from tqdm import tqdm

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.evaluation.box_statistics import THRESHOLD_GRID, BoxStatistics
from detectron2_agssp.evaluation.tables import format_rows
from detectron2_agssp.maps.manifest import finite_score, seeded_rank
from detectron2_agssp.maps.store import MapStore, load_map

# Of the printed table: header -> attribute.
FOLDER_COLUMNS = {
    "maps": "map_root",
    "images": "images",
    "threshold": "threshold",
    "with boxes": "share_with_boxes",
    "boxes/image": "boxes_per_image",
    "box area": "box_coverage",
    "cells above": "cell_coverage",
    "median side": "median_box_side",
    "stability -": "stability_below",
    "stability +": "stability_above",
}


@dataclass(frozen=True)
class SourceFigures:
    """Of the images of one source: how many, the share of them with at least one box, in [0, 1],
    and the mean of their image scores."""

    images: int
    share_with_boxes: float
    mean_score: float


@dataclass(frozen=True)
class LabelFreeFigures:
    """Of one map folder. Shares are in [0, 1]; means over images count each image once, whatever
    its size.

    Attributes:
        map_root: the folder.
        images: how many were judged.
        threshold: boxes are cut at it, in the maps' units, [0, 1).
        delta: distance of the two thresholds of the stability.
        share_with_boxes: of the images that have at least one box.
        boxes_per_image: mean.
        box_coverage: share of an image's area inside its boxes (their union); mean over images.
        cell_coverage: share of a map's cells above the threshold; mean over images.
        median_box_side: median over all boxes of sqrt(box area / image area); None without boxes.
        stability_below, stability_above: :func:`box_agreement` between the boxes at the threshold
            and those at threshold - delta, or + delta, clipped to [0, 1]; mean over images.
        stability: mean of these two.
        curve: (threshold, share of images with at least one box) in rising order.
        sources: source -> its figures, in order of its name.
    """

    map_root: str
    images: int
    threshold: float
    delta: float
    share_with_boxes: float
    boxes_per_image: float
    box_coverage: float
    cell_coverage: float
    median_box_side: float | None
    stability_below: float
    stability_above: float
    stability: float
    curve: tuple[tuple[float, float], ...]
    sources: dict[str, SourceFigures]


def label_free_figures(
    cfg,
    map_root: str | Path,
    *,
    delta: float = 0.05,
    thresholds: Sequence[float] = THRESHOLD_GRID,
    max_images: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> LabelFreeFigures:
    """The figures of one map folder, with the boxes of ``cfg.AGSSP.BOXES``, in one pass.

    Args:
        cfg: a Detectron2 config.
        map_root: the map folder.
        delta: in (0, 1), in the maps' units.
        thresholds: of the curve, each in [0, 1).
        max_images: 0 judges all; else a sample of as many, the same for every folder of the same
            images. The threshold is still that of the whole folder, by which AGDP cuts its boxes;
            except where it is "fixed", that reads all maps once, and is cached in the folder.
        seed: of the sample.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such map folder.
        ValueError: it has no images, a map or score is not finite (named), or an argument is out
            of its range.
    """
    thresholds = sorted(thresholds)
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}.")
    if not all(0 <= threshold < 1 for threshold in thresholds):
        raise ValueError(f"thresholds must be in [0, 1), got {thresholds}.")
    store = MapStore(map_root)
    entries = sample_entries(store.entries(), max_images, seed)
    if not entries:
        raise ValueError(f"The manifest of {store.root} is empty: there are no maps to judge.")
    rule = BoxRule.from_config(cfg, map_root)
    sources: dict[str, BoxStatistics] = defaultdict(BoxStatistics)
    scores: dict[str, list[float]] = defaultdict(list)
    means = np.zeros(3)  # cells above the threshold, agreement with delta less, and with delta more
    with_boxes = np.zeros(len(thresholds), np.int64)
    for entry in tqdm(entries, desc=f"judging {map_root}", unit="img", disable=not progress):
        anomaly_map = load_map(store.root / entry["map"])
        height, width, source = entry["height"], entry["width"], entry["source"]
        scores[source].append(finite_score(entry, store.manifest_path))
        full = resize_map(anomaly_map, height, width)  # once, not for each threshold
        cut = functools.partial(_boxes_at, rule, full)
        threshold = rule.threshold_of(source)
        boxes = cut(threshold)
        sources[source].add(anomaly_map, boxes, height, width)
        means += [
            (anomaly_map > threshold).mean(),
            box_agreement(boxes, cut(max(threshold - delta, 0.0))),
            box_agreement(boxes, cut(min(threshold + delta, 1.0))),
        ]
        # A component that is large enough at one threshold lies in a larger one at each lower
        # threshold, so that the boxes vanish at one point of the curve: it is found by bisection.
        with_boxes[: bisect.bisect_left(thresholds, True, key=lambda t: len(cut(t)) == 0)] += 1
    total = BoxStatistics.total(sources.values())
    cells, below, above = (means / total.images).tolist()
    return LabelFreeFigures(
        map_root=str(map_root),
        images=total.images,
        threshold=rule.mean_threshold,
        delta=delta,
        share_with_boxes=total.share_with_boxes,
        boxes_per_image=total.boxes_per_image,
        box_coverage=total.box_coverage,
        cell_coverage=cells,
        median_box_side=total.side_quantile(0.5),
        stability_below=below,
        stability_above=above,
        stability=(below + above) / 2,
        curve=tuple(zip(thresholds, (with_boxes / total.images).tolist(), strict=True)),
        sources={
            source: SourceFigures(
                boxes.images, boxes.share_with_boxes, float(np.mean(scores[source]))
            )
            for source, boxes in sorted(sources.items())
        },
    )


def _boxes_at(rule: BoxRule, full: np.ndarray, threshold: float) -> np.ndarray:
    return rule.at(threshold)(full, *full.shape)[0]


def box_agreement(boxes_a: np.ndarray, boxes_b: np.ndarray) -> float:
    """How alike two sets of boxes of one image are, in [0, 1]; symmetric.

    Each box is matched with the box of the other set that it overlaps best. The mean of these IoUs
    over set A, and that over set B, are averaged. Two empty sets agree fully, an empty one and
    one that is not, not at all.

    Args:
        boxes_a: (K, 4) float, XYXY, absolute pixels.
        boxes_b: (L, 4) likewise.
    """
    if len(boxes_a) == 0 or len(boxes_b) == 0:
        return float(len(boxes_a) == len(boxes_b))
    sets = (Boxes(torch.from_numpy(np.ascontiguousarray(boxes))) for boxes in (boxes_a, boxes_b))
    iou = pairwise_iou(*sets)
    best_of_a, best_of_b = iou.amax(dim=1), iou.amax(dim=0)
    return float(best_of_a.mean() + best_of_b.mean()) / 2


def sample_entries(entries: Iterable[dict], max_images: int, seed: int) -> list[dict]:
    """All manifest entries, or a seeded sample of ``max_images`` that does not depend on the
    folder, in their order.

    Raises:
        ValueError: ``max_images`` is negative.
    """
    if max_images < 0:
        raise ValueError(f"max_images must be 0 (all) or positive, got {max_images}.")
    entries = list(entries)
    if not 0 < max_images < len(entries):
        return entries
    ranks = [seeded_rank(seed, entry["image"]) for entry in entries]
    last = sorted(ranks)[max_images - 1]
    return [entry for entry, rank in zip(entries, ranks, strict=True) if rank <= last]


def format_figures(folders: Iterable[LabelFreeFigures]) -> str:
    """Tables as aligned text: the folders, their curves, and their sources."""
    folders = list(folders)
    rows = [[getattr(folder, name) for name in FOLDER_COLUMNS.values()] for folder in folders]
    curves = [[folder.map_root, *(share for _, share in folder.curve)] for folder in folders]
    thresholds = [f"{threshold:g}" for threshold, _ in folders[0].curve]
    sources = [
        [folder.map_root, name, source.images, source.share_with_boxes, source.mean_score]
        for folder in folders
        for name, source in folder.sources.items()
    ]
    tables = [
        format_rows(FOLDER_COLUMNS, rows),
        format_rows(["share with boxes, at", *thresholds], curves),
        format_rows(["maps", "source", "images", "with boxes", "mean score"], sources, 2),
    ]
    return "\n\n".join(tables)
