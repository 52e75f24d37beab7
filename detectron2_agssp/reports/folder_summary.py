"""What a map folder holds, in figures: scores, extremes, box statistics.

The manifest is read twice, line by line, and nothing of it is kept but counts over fixed bins, a
few entries and a sample of line numbers: memory does not grow with the number of images.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        images: how many.
        score_sum: of their scores.
        score_counts: images by score, (40,), between the edges of the :class:`FolderSummary`.
        boxes: of those of its images that are in the sample.
    """

    name: str
    images: int = 0
    score_sum: float = 0.0
    score_counts: np.ndarray = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
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

    @property
    def threshold(self) -> float:
        """That the boxes were cut at; of sources that differ, the mean."""
        return self.rule.mean_threshold


class Smallest:
    """Keeps the ``count`` items with the smallest keys; of equal keys, those added first."""

    def __init__(self, count: int):
        self.count = count
        self._heap: list[tuple] = []
        self._added = 0

    def add(self, key: float, item: Any) -> None:
        self._added += 1
        # The heap has its largest key on top; the running number also keeps items from being
        # compared.
        ranked = (-key, -self._added, item)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, ranked)
        elif self._heap and ranked > self._heap[0]:
            heapq.heapreplace(self._heap, ranked)

    def items(self) -> list:
        """Smallest key first."""
        return [item for _, _, item in sorted(self._heap, reverse=True)]


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
        progress: show progress bars.

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
    sizes: Counter[str] = Counter()
    low, high = np.inf, -np.inf
    best, worst = Smallest(num_examples), Smallest(num_examples)
    # Three times as many, because the best and the worst may be among them.
    random, sample = Smallest(3 * num_examples), Smallest(max_images)
    entries = tqdm(store.entries(), desc="manifest", unit="img", disable=not progress)
    for position, entry in enumerate(entries):
        score = finite_score(entry, store.manifest_path)
        sizes[str(entry["source"])] += 1
        low, high = min(low, score), max(high, score)
        best.add(-score, entry)
        worst.add(score, entry)
        rank = seeded_rank(seed, entry["image"])
        random.add(rank, entry)
        sample.add(rank, position)
    num_images = sizes.total()
    if num_images == 0:
        raise ValueError(
            f"The manifest of {store.root} is empty: there are no maps to look at. Run "
            "agssp maps; if it did, its skipped.jsonl says why there are none."
        )
    if low == high:
        low, high = low - 0.5, high + 0.5

    kept = [name for name, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))]
    sources = {name: SourceSummary(name) for name in kept[:max_sources]}
    others = SourceSummary(f"{len(sizes) - len(sources):,} other sources")
    rule = BoxRule.from_config(cfg, map_root)
    sampled = set(sample.items())
    entries = tqdm(
        store.entries(), desc="boxes", unit="img", total=num_images, disable=not progress
    )
    for position, entry in enumerate(entries):
        source = sources.get(str(entry["source"]), others)
        source.images += 1
        source.score_sum += entry["score"]
        # Clipped: a run that goes on may have appended a new extreme since.
        share = np.clip((entry["score"] - low) / (high - low), 0, 1)
        source.score_counts[min(int(share * SCORE_BINS), SCORE_BINS - 1)] += 1
        if position in sampled:
            anomaly_map = load_map(store.root / entry["map"])
            height, width = entry["height"], entry["width"]
            boxes, _ = rule(anomaly_map, height, width, entry["source"])
            source.boxes.add(anomaly_map, boxes, height, width)

    listed = [*sources.values(), others] if others.images else list(sources.values())
    total = BoxStatistics()
    for source in listed:
        total += source.boxes
    # An image is shown once, also in a folder of a few.
    shown = {entry["image"] for entry in best.items()}
    lowest = [entry for entry in worst.items() if entry["image"] not in shown]
    shown |= {entry["image"] for entry in lowest}
    drawn = [entry for entry in random.items() if entry["image"] not in shown]
    return FolderSummary(
        num_images=num_images,
        num_sources=len(sizes),
        sources=listed,
        score_edges=np.linspace(low, high, SCORE_BINS + 1),
        boxes=total,
        rule=rule,
        best=best.items(),
        worst=lowest,
        random=drawn[:num_examples],
    )
