"""What a map folder says about itself, without labels: figures to choose a scorer and a threshold
by, before training.

Shapes: (h, w) a map's own grid, (H, W) its image, K boxes.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou
from tqdm import tqdm

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.evaluation.box_statistics import covered_area
from detectron2_agssp.maps.image_stream import sample_paths
from detectron2_agssp.maps.manifest import finite_score
from detectron2_agssp.maps.store import MapStore, load_map

THRESHOLD_GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Of the histogram of the boxes' sides: the median is right to half of 1 / this.
SIDE_BINS = 1000
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
        median_box_side: median over all boxes of sqrt(box area / image area), to 0.0005; None
            without boxes.
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
    """The figures of one map folder, with the boxes of ``cfg.AGSSP.BOXES``, in one pass. Memory
    does not grow with the number of images, only with that of sources and ``max_images``.

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
    if not all(0 <= one < 1 for one in thresholds):
        raise ValueError(f"thresholds must be in [0, 1), got {thresholds}.")
    store = MapStore(map_root)
    if next(store.entries(), None) is None:
        raise ValueError(f"The manifest of {store.root} is empty: there are no maps to judge.")
    sums = _Sums(BoxRule.from_config(cfg, map_root), delta, thresholds)
    entries = _chosen(store, max_images, seed)
    for entry in tqdm(entries, desc=f"judging {map_root}", unit="img", disable=not progress):
        sums.add(
            entry, load_map(store.root / entry["map"]), finite_score(entry, store.manifest_path)
        )
    return sums.figures(str(map_root))


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
    sets = (Boxes(torch.from_numpy(np.ascontiguousarray(one))) for one in (boxes_a, boxes_b))
    iou = pairwise_iou(*sets)
    best_of_a, best_of_b = iou.amax(dim=1), iou.amax(dim=0)
    return float(best_of_a.mean() + best_of_b.mean()) / 2


def check_max_images(max_images: int) -> None:
    if max_images < 0:
        raise ValueError(f"max_images must be 0 (all) or positive, got {max_images}.")


def _chosen(store: MapStore, max_images: int, seed: int) -> Iterator[dict]:
    check_max_images(max_images)
    if not max_images:
        return store.entries()
    images = set(sample_paths((entry["image"] for entry in store.entries()), max_images, seed))
    return (entry for entry in store.entries() if entry["image"] in images)


class _Sums:
    """The figures so far, of one image after the other."""

    def __init__(self, rule: BoxRule, delta: float, thresholds: list[float]):
        self.rule = rule
        self.delta = delta
        self.thresholds = thresholds
        self.images = 0
        # In the order of the attributes of LabelFreeFigures.
        self.means = np.zeros(6)
        self.sides = np.zeros(SIDE_BINS, np.int64)
        # [i]: images with boxes at exactly the first i thresholds of the curve.
        self.on_curve = np.zeros(len(thresholds) + 1, np.int64)
        self.sources: dict[str, np.ndarray] = {}

    def add(self, entry: dict, anomaly_map: np.ndarray, score: float) -> None:
        height, width = entry["height"], entry["width"]
        full = resize_map(anomaly_map, height, width)  # once, not for each threshold
        configured = self.rule.threshold_of(entry["source"])

        def boxes_at(threshold: float) -> np.ndarray:
            return self.rule.at(threshold)(full, height, width)[0]

        boxes = boxes_at(configured)
        self.images += 1
        self.means += [
            len(boxes) > 0,
            len(boxes),
            covered_area(boxes) / (height * width),
            (anomaly_map > configured).mean(),
            box_agreement(boxes, boxes_at(max(configured - self.delta, 0.0))),
            box_agreement(boxes, boxes_at(min(configured + self.delta, 1.0))),
        ]
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (height * width))
        bins = np.ceil(sides * SIDE_BINS).astype(int) - 1
        self.sides += np.bincount(bins.clip(0, SIDE_BINS - 1), minlength=SIDE_BINS)
        # A component that is large enough at one threshold lies in a larger one at each lower
        # threshold, so that the boxes vanish at one point of the curve: it is found by bisection.
        vanish = bisect.bisect_left(self.thresholds, True, key=lambda t: len(boxes_at(t)) == 0)
        self.on_curve[vanish] += 1
        of_source = self.sources.setdefault(entry["source"], np.zeros(3))
        of_source += [1, len(boxes) > 0, score]

    def figures(self, map_root: str) -> LabelFreeFigures:
        share, boxes, box_coverage, cell_coverage, below, above = (
            self.means / self.images
        ).tolist()
        with_boxes = np.cumsum(self.on_curve[::-1])[::-1][1:] / self.images
        return LabelFreeFigures(
            map_root=map_root,
            images=self.images,
            threshold=self.rule.mean_threshold,
            delta=self.delta,
            share_with_boxes=share,
            boxes_per_image=boxes,
            box_coverage=box_coverage,
            cell_coverage=cell_coverage,
            median_box_side=self._median_side(),
            stability_below=below,
            stability_above=above,
            stability=(below + above) / 2,
            curve=tuple(zip(self.thresholds, with_boxes.tolist(), strict=True)),
            sources={
                source: SourceFigures(int(images), boxes / images, score / images)
                for source, (images, boxes, score) in sorted(self.sources.items())
            },
        )

    def _median_side(self) -> float | None:
        cumulative = np.cumsum(self.sides)
        if cumulative[-1] == 0:
            return None
        return (int(np.searchsorted(cumulative, cumulative[-1] / 2)) + 0.5) / SIDE_BINS


def format_figures(folders: Iterable[LabelFreeFigures]) -> str:
    """Tables as aligned text: the folders, their curves, and their sources."""
    from tabulate import tabulate

    folders = list(folders)
    rows = [[getattr(one, name) for name in FOLDER_COLUMNS.values()] for one in folders]
    curves = [[one.map_root, *(share for _, share in one.curve)] for one in folders]
    thresholds = [f"{threshold:g}" for threshold, _ in folders[0].curve]
    sources = [
        [one.map_root, name, source.images, source.share_with_boxes, source.mean_score]
        for one in folders
        for name, source in one.sources.items()
    ]
    # Headers, rows, and the columns of names, which may look like numbers.
    tables = [
        ([*FOLDER_COLUMNS], rows, [0]),
        (["share with boxes, at", *thresholds], curves, [0]),
        (["maps", "source", "images", "with boxes", "mean score"], sources, [0, 1]),
    ]
    style = {"floatfmt": ".3f", "tablefmt": "github", "missingval": "-"}
    return "\n\n".join(
        tabulate(of, headers, disable_numparse=names, **style) for headers, of, names in tables
    )
