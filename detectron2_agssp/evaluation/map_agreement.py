"""How far two map folders of the same images agree, without labels."""

import heapq
import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.evaluation.label_free import check_max_images
from detectron2_agssp.maps.image_stream import sample_paths
from detectron2_agssp.maps.manifest import finite_score, sort_key
from detectron2_agssp.maps.store import MapStore, load_map

# Of the printed table: header -> attribute.
COLUMNS = {
    "maps": "map_root_a",
    "and maps": "map_root_b",
    "common": "images_common",
    "judged": "images_judged",
    "constant": "constant",
    "map corr.": "map_correlation",
    "score rank corr.": "score_correlation",
    "IoU above": "binary_iou",
}


@dataclass(frozen=True)
class MapAgreement:
    """Of two map folders, a and b.

    Attributes:
        map_root_a, map_root_b: the folders.
        images_a, images_b: how many images each has.
        images_common: how many both have.
        images_judged: of these, how many were compared.
        constant: of these, how many have a map that is constant in a or in b, and so no
            correlation.
        map_correlation: mean over the other images of Pearson's correlation of the two maps, in
            [-1, 1]; None where there is none.
        score_correlation: Spearman's rank correlation of the image scores, in [-1, 1]; None for
            one image, or equal scores of all images.
        binary_iou: mean over the images of the IoU of the cells above each folder's own box
            threshold, in [0, 1]; 1 where neither map has any.
    """

    map_root_a: str
    map_root_b: str
    images_a: int
    images_b: int
    images_common: int
    images_judged: int
    constant: int
    map_correlation: float | None
    score_correlation: float | None
    binary_iou: float


def agreement(
    cfg,
    map_root_a: str | Path,
    map_root_b: str | Path,
    *,
    max_images: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> MapAgreement:
    """Compares the maps that two folders have of the same images (equal ``image`` in the
    manifests). Maps whose grids differ are resized to the larger height and the larger width.

    The manifests, which are in order, are read side by side; memory grows with the images by their
    two scores, 16 bytes an image, which the rank correlation needs.

    Args:
        cfg: a Detectron2 config; ``cfg.AGSSP.BOXES`` gives each folder's threshold.
        map_root_a, map_root_b: map folders.
        max_images: 0 compares all common images; else a sample of as many (the thresholds are
            those of the whole folders all the same).
        seed: of the sample.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such map folder.
        ValueError: the folders have no image in common, a manifest is not in order, a map or score
            is not finite (named), or an argument is out of its range.
    """
    check_max_images(max_images)
    stores = MapStore(map_root_a), MapStore(map_root_b)
    counts = [0, 0]
    num_common = 0
    for entries in _side_by_side(*stores):
        for side in entries:
            counts[side] += 1
        num_common += len(entries) == 2
    if not num_common:
        raise ValueError(
            f"{map_root_a} ({counts[0]} images) and {map_root_b} ({counts[1]}) have no image in "
            "common. Both must be made of the same IMAGE_DIR, so that its relative paths agree."
        )
    rules = [BoxRule.from_config(cfg, store.root) for store in stores]
    sample = None
    if max_images:
        images = (entries[0]["image"] for entries in _common(*stores))
        sample = set(sample_paths(images, max_images, seed))
    scores = array("d"), array("d")
    correlations, overlaps, constant = 0.0, 0.0, 0
    bar = tqdm(_common(*stores), desc="comparing", unit="img", disable=not progress)
    for entries in bar:
        if sample is not None and entries[0]["image"] not in sample:
            continue
        for side in (0, 1):
            scores[side].append(finite_score(entries[side], stores[side].manifest_path))
        maps = _on_one_grid(
            *(load_map(stores[side].root / entries[side]["map"]) for side in (0, 1))
        )
        if any(one.min() == one.max() for one in maps):
            constant += 1
        else:
            correlations += float(np.corrcoef(*(one.ravel().astype(float) for one in maps))[0, 1])
        source = entries[0]["source"]
        above = [one > rule.threshold_of(source) for one, rule in zip(maps, rules, strict=True)]
        union = np.count_nonzero(above[0] | above[1])
        overlaps += np.count_nonzero(above[0] & above[1]) / union if union else 1.0
    judged = len(scores[0])
    return MapAgreement(
        map_root_a=str(map_root_a),
        map_root_b=str(map_root_b),
        images_a=counts[0],
        images_b=counts[1],
        images_common=num_common,
        images_judged=judged,
        constant=constant,
        map_correlation=correlations / (judged - constant) if judged > constant else None,
        score_correlation=_rank_correlation(*map(np.asarray, scores)),
        binary_iou=overlaps / judged,
    )


def _side_by_side(store_a: MapStore, store_b: MapStore) -> Iterator[dict[int, dict]]:
    """Of each image of either folder, the entries by folder: {0: of a, 1: of b}, or one of them."""
    merged = heapq.merge(_in_order(store_a, 0), _in_order(store_b, 1), key=itemgetter(0))
    for _, group in itertools.groupby(merged, key=itemgetter(0)):
        yield {side: entry for _, side, entry in group}


def _common(store_a: MapStore, store_b: MapStore) -> Iterator[dict[int, dict]]:
    return (entries for entries in _side_by_side(store_a, store_b) if len(entries) == 2)


def _in_order(store: MapStore, side: int) -> Iterator[tuple[list[str], int, dict]]:
    previous = None
    for entry in store.entries():
        key = sort_key(entry["image"])
        if previous is not None and key <= previous:
            raise ValueError(
                f"{store.manifest_path} is not in order: {entry['image']!r} comes after "
                f"{'/'.join(previous)!r}. A run that was interrupted leaves it so; run "
                "agssp maps again, which finishes and sorts it."
            )
        previous = key
        yield key, side, entry


def _on_one_grid(map_a: np.ndarray, map_b: np.ndarray) -> list[np.ndarray]:
    height, width = np.maximum(map_a.shape, map_b.shape).tolist()
    return [
        one if one.shape == (height, width) else resize_map(one, height, width)
        for one in (map_a, map_b)
    ]


def _rank_correlation(scores_a: np.ndarray, scores_b: np.ndarray) -> float | None:
    from scipy.stats import spearmanr  # slow to import

    if np.ptp(scores_a) == 0 or np.ptp(scores_b) == 0:
        return None
    return float(spearmanr(scores_a, scores_b).statistic)


def format_agreements(pairs: Iterable[MapAgreement]) -> str:
    """One line a pair of folders, as aligned text."""
    from tabulate import tabulate

    rows = [[getattr(one, name) for name in COLUMNS.values()] for one in pairs]
    style = {"floatfmt": ".3f", "tablefmt": "github", "missingval": "-"}
    return tabulate(rows, [*COLUMNS], disable_numparse=[0, 1], **style)
