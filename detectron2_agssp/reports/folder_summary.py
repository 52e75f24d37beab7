"""What a map folder holds, in figures: scores, extremes, box statistics."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.evaluation.box_statistics import BoxStatistics
from detectron2_agssp.maps.manifest import finite_score, seeded_rank
from detectron2_agssp.maps.store import MapStore, load_map

SCORE_BINS = 40


@dataclass
class SourceSummary:
    """Of one source, or of all the small ones together.

    Attributes:
        name: of the source.
        scores: of its images.
        boxes: of those of its images that are in the sample.
    """

    name: str
    scores: list[float] = field(default_factory=list)
    boxes: BoxStatistics = field(default_factory=BoxStatistics)


@dataclass
class FolderSummary:
    """Of a map folder.

    Attributes:
        num_images: lines of the manifest.
        num_sources: different sources.
        sources: the largest, falling by their number of images; the last one may be all others.
        score_edges: limits of the score bins, (41,).
        boxes: over the sample of images.
        rule: that the boxes were cut by.
        best, worst, random: manifest entries: highest score first, lowest score first, and a seeded
            sample of the others.
    """

    num_images: int
    num_sources: int
    sources: list[SourceSummary]
    score_edges: np.ndarray
    boxes: BoxStatistics
    rule: BoxRule
    best: list[dict]
    worst: list[dict]
    random: list[dict]

    def score_counts(self, source: SourceSummary) -> np.ndarray:
        """A source's images by score, (40,)."""
        return np.histogram(source.scores, self.score_edges)[0]


def summarize_map_folder(
    cfg,
    map_root: str | Path,
    *,
    num_examples: int = 6,
    seed: int = 0,
    max_images: int = 10_000,
    max_sources: int = 12,
    progress: bool = True,
) -> FolderSummary:
    """Reads a map folder's manifest, and the maps of at most ``max_images`` of its images.

    Args:
        cfg: boxes are cut by ``cfg.AGSSP.BOXES``. Its threshold may need all maps of the folder
            once (see :func:`~detectron2_agssp.boxes.threshold.map_statistics`, which caches it).
        map_root: the map folder.
        num_examples: entries in each of ``best``, ``worst`` and ``random``; 0 or more.
        seed: of the random entries and of the sample of ``max_images``.
        max_images: whose maps are read for the box statistics, at least 1.
        max_sources: sources kept apart, at least 1; all others are summed.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no manifest, or a map is missing (named).
        ValueError: the manifest is empty or damaged, a score is not a number, a map is damaged
            (named), or an argument is out of its range.
    """
    if num_examples < 0 or max_images < 1 or max_sources < 1:
        raise ValueError(
            "Expected num_examples >= 0, max_images >= 1 and max_sources >= 1, got "
            f"{num_examples}, {max_images} and {max_sources}."
        )
    store = MapStore(map_root)
    entries = list(store.entries())
    if not entries:
        raise ValueError(
            f"The manifest of {store.root} is empty: there are no maps to look at. Run "
            "agssp maps; if it did, its skipped.jsonl says why there are none."
        )
    scores = [finite_score(entry, store.manifest_path) for entry in entries]
    low, high = min(scores), max(scores)
    if low == high:
        low, high = low - 0.5, high + 0.5
    sizes = Counter(str(entry["source"]) for entry in entries)
    kept = sorted(sizes, key=lambda name: (-sizes[name], name))[:max_sources]
    sources = {name: SourceSummary(name) for name in kept}
    others = SourceSummary(f"{len(sizes) - len(kept):,} other sources")
    for entry, score in zip(entries, scores, strict=True):
        sources.get(str(entry["source"]), others).scores.append(score)

    rule = BoxRule.from_config(cfg, map_root)
    shuffled = sorted(entries, key=lambda entry: seeded_rank(seed, entry["image"]))
    for entry in tqdm(shuffled[:max_images], desc="boxes", unit="img", disable=not progress):
        anomaly_map = load_map(store.root / entry["map"])
        height, width = entry["height"], entry["width"]
        boxes, _ = rule(anomaly_map, height, width, entry["source"])
        source = sources.get(str(entry["source"]), others)
        source.boxes.add(anomaly_map, boxes, height, width)

    listed = [source for source in (*sources.values(), others) if source.scores]
    # An image is shown once, also in a folder of a few.
    shown: set[str] = set()
    groups = []
    by_score = sorted(entries, key=lambda entry: entry["score"])
    best = sorted(entries, key=lambda entry: -entry["score"])[:num_examples]
    for candidates in (best, by_score[:num_examples], shuffled):
        fresh = [entry for entry in candidates if entry["image"] not in shown][:num_examples]
        shown |= {entry["image"] for entry in fresh}
        groups.append(fresh)
    return FolderSummary(
        num_images=len(entries),
        num_sources=len(sizes),
        sources=listed,
        score_edges=np.linspace(low, high, SCORE_BINS + 1),
        boxes=BoxStatistics.total(source.boxes for source in listed),
        rule=rule,
        best=groups[0],
        worst=groups[1],
        random=groups[2],
    )
