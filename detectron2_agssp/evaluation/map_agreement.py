"""How far two map folders of the same images agree, without labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.evaluation.label_free import sample_entries
from detectron2_agssp.evaluation.tables import format_rows
from detectron2_agssp.maps.manifest import finite_score
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

    Args:
        cfg: a Detectron2 config; ``cfg.AGSSP.BOXES`` gives each folder's threshold.
        map_root_a, map_root_b: map folders.
        max_images: 0 compares all common images; else a sample of as many (the thresholds are
            those of the whole folders all the same).
        seed: of the sample.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such map folder.
        ValueError: the folders have no image in common, a map or score is not finite (named), or an
            argument is out of its range.
    """
    stores = MapStore(map_root_a), MapStore(map_root_b)
    entries_a, entries_b = (
        {entry["image"]: entry for entry in store.entries()} for store in stores
    )
    common = [entry for image, entry in entries_a.items() if image in entries_b]
    if not common:
        raise ValueError(
            f"{map_root_a} ({len(entries_a)} images) and {map_root_b} ({len(entries_b)}) have no "
            "image in common. Both must be made of the same image folder, so that its relative "
            "paths agree."
        )
    judged = sample_entries(common, max_images, seed)
    rules = [BoxRule.from_config(cfg, store.root) for store in stores]
    scores, correlations, overlaps = [], [], []
    for entry in tqdm(judged, desc="comparing", unit="img", disable=not progress):
        pair = entry, entries_b[entry["image"]]
        both = list(zip(pair, stores, strict=True))
        scores.append([finite_score(record, store.manifest_path) for record, store in both])
        maps = _on_one_grid(*(load_map(store.root / record["map"]) for record, store in both))
        if all(np.ptp(anomaly_map) > 0 for anomaly_map in maps):
            flat = (anomaly_map.ravel().astype(float) for anomaly_map in maps)
            correlations.append(float(np.corrcoef(*flat)[0, 1]))
        above = [
            anomaly_map > rule.threshold_of(record["source"])
            for anomaly_map, rule, record in zip(maps, rules, pair, strict=True)
        ]
        union = np.count_nonzero(above[0] | above[1])
        overlaps.append(np.count_nonzero(above[0] & above[1]) / union if union else 1.0)
    return MapAgreement(
        map_root_a=str(map_root_a),
        map_root_b=str(map_root_b),
        images_a=len(entries_a),
        images_b=len(entries_b),
        images_common=len(common),
        images_judged=len(judged),
        constant=len(judged) - len(correlations),
        map_correlation=float(np.mean(correlations)) if correlations else None,
        score_correlation=_rank_correlation(*np.transpose(scores)),
        binary_iou=float(np.mean(overlaps)),
    )


def _on_one_grid(map_a: np.ndarray, map_b: np.ndarray) -> list[np.ndarray]:
    height, width = np.maximum(map_a.shape, map_b.shape).tolist()
    return [resize_map(anomaly_map, height, width) for anomaly_map in (map_a, map_b)]


def _rank_correlation(scores_a: np.ndarray, scores_b: np.ndarray) -> float | None:
    from scipy.stats import spearmanr  # slow to import

    if np.ptp(scores_a) == 0 or np.ptp(scores_b) == 0:
        return None
    return float(spearmanr(scores_a, scores_b).statistic)


def format_agreements(pairs: Iterable[MapAgreement]) -> str:
    """One line per pair of folders, as aligned text."""
    rows = ([getattr(pair, name) for name in COLUMNS.values()] for pair in pairs)
    return format_rows(COLUMNS, rows, 2)
