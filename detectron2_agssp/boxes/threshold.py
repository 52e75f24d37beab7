"""The threshold that turns maps into boxes, from the statistics of the whole map folder."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectron2_agssp.io.files import read_json, write_json
from detectron2_agssp.maps.store import MapStore, load_map

THRESHOLD_MODES = ("mean_max", "quantile", "fixed")
# float16 numbers in [0, 1] are the bit patterns 0 ... 0x3C00, in order: the histogram is exact.
NUM_FLOAT16_VALUES = 0x3C00 + 1
# Seconds after which a pass over the maps shows its progress.
PROGRESS_DELAY = 5


@dataclass(frozen=True)
class MapStatistics:
    """Of all maps of a folder.

    Attributes:
        num_maps: how many.
        mean_max: mean of the maps' maxima.
        histogram: cells a float16 value, (15361,), in rising order of the value.
    """

    num_maps: int
    mean_max: float
    histogram: list[int]

    def quantile(self, q: float) -> float:
        """The smallest map value that at least a share ``q`` of all cells does not exceed."""
        cumulative = np.cumsum(self.histogram)
        index = int(np.searchsorted(cumulative, q * cumulative[-1]))
        bits = np.array([min(index, NUM_FLOAT16_VALUES - 1)], np.uint16)
        return float(bits.view(np.float16)[0])


def map_statistics(map_root: str | Path) -> MapStatistics:
    """Statistics of a map folder, in one pass that keeps nothing but the sums; cached in the
    folder's ``statistics.json`` until its manifest changes.

    Raises:
        FileNotFoundError, ValueError: no manifest, no maps, or a bad one (named).
    """
    return _cached(map_root, "statistics.json", _of_all, asdict, _read)


def source_statistics(map_root: str | Path) -> dict[str, MapStatistics]:
    """Source -> statistics of its maps; cached in ``statistics_by_source.json``, otherwise as
    :func:`map_statistics`."""

    def write(statistics: dict[str, MapStatistics]) -> dict:
        return {"sources": {name: asdict(own) for name, own in statistics.items()}}

    def read(cached: dict) -> dict[str, MapStatistics]:
        return {name: _read(own) for name, own in cached["sources"].items()}

    return _cached(map_root, "statistics_by_source.json", _of_sources, write, read)


def _cached(map_root: str | Path, name: str, compute: Callable, write: Callable, read: Callable):
    store = MapStore(map_root)
    cache = store.root / name
    # Raises where there is no manifest.
    first = next(store.entries(), None)
    if first is None:
        raise ValueError(f"The manifest of {store.root} is empty: there are no maps.")
    stamp = [store.manifest_path.stat().st_size, store.manifest_path.stat().st_mtime_ns]
    # A cache that another version wrote, or nobody, is made anew.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ArithmeticError):
        cached = read_json(cache)
        if cached["manifest"] == stamp:
            return read(cached)
    statistics = compute(store)
    # A read-only map folder works too; its statistics are then computed each time.
    with contextlib.suppress(OSError):
        write_json(cache, {**write(statistics), "manifest": stamp})
    return statistics


def _read(cached: dict) -> MapStatistics:
    """Raises an error of those that make a cache worthless where it is not one."""
    count, mean_max = int(cached["num_maps"]), float(cached["mean_max"])
    histogram = np.array(cached["histogram"], np.int64)
    if histogram.shape != (NUM_FLOAT16_VALUES,) or not 0 <= mean_max <= 1:
        raise ValueError(f"{histogram.shape}, {mean_max}")
    return MapStatistics(count, mean_max, histogram.tolist())


class _Sums:
    """Of the maps so far."""

    def __init__(self):
        self.count, self.maxima = 0, 0.0
        self.histogram = np.zeros(NUM_FLOAT16_VALUES, np.int64)

    def add(self, anomaly_map: np.ndarray) -> None:
        self.count += 1
        self.maxima += float(anomaly_map.max())
        bits = np.abs(anomaly_map).astype(np.float16).view(np.uint16)
        self.histogram += np.bincount(bits.ravel(), minlength=NUM_FLOAT16_VALUES)

    def statistics(self) -> MapStatistics:
        return MapStatistics(self.count, self.maxima / self.count, self.histogram.tolist())


def _maps(store: MapStore) -> Iterator[tuple[dict, np.ndarray]]:
    # Seconds for a hundred thousand small maps, but minutes where the folder is remote.
    bar = tqdm(store.entries(), desc="map statistics", unit="map", delay=PROGRESS_DELAY)
    for entry in bar:
        yield entry, load_map(store.root / entry["map"])


def _of_all(store: MapStore) -> MapStatistics:
    sums = _Sums()
    for _, anomaly_map in _maps(store):
        sums.add(anomaly_map)
    return sums.statistics()


def _of_sources(store: MapStore) -> dict[str, MapStatistics]:
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for entry, anomaly_map in _maps(store):
        sums[entry["source"]].add(anomaly_map)
    return {name: own.statistics() for name, own in sums.items()}


def box_threshold(
    map_root: str | Path,
    mode: str = "mean_max",
    *,
    margin: float = 0.1,
    quantile: float = 0.99,
    threshold: float = 0.5,
    per_source: bool = False,
) -> float | dict[str, float]:
    """The threshold for the maps of one folder, in [0, 1).

    Args:
        map_root: the map folder.
        mode: "mean_max": the mean of the maps' maxima minus ``margin`` (the paper's); "quantile":
            the ``quantile`` of all cells; "fixed": ``threshold`` as given.
        margin, quantile, threshold: in the maps' units, [0, 1].
        per_source: of each source by its own maps. "fixed" is the same for all.

    Returns:
        the threshold, or source -> threshold.

    Raises:
        ValueError: unknown mode, or a threshold outside [0, 1), at which every cell or none would
            be a defect.
    """
    if mode not in THRESHOLD_MODES:
        raise ValueError(
            f"AGSSP.BOXES.THRESHOLD_MODE is {mode!r}. Choices: {', '.join(THRESHOLD_MODES)}."
        )
    if mode == "fixed":
        return _checked(threshold, mode, f"of {map_root}")
    if mode == "quantile" and not 0 <= quantile <= 1:
        raise ValueError(f"AGSSP.BOXES.QUANTILE must be in [0, 1], got {quantile}.")

    def of(statistics: MapStatistics) -> float:
        return statistics.quantile(quantile) if mode == "quantile" else statistics.mean_max - margin

    if not per_source:
        return _checked(of(map_statistics(map_root)), mode, f"of {map_root}")
    return {
        name: _checked(of(statistics), mode, f"of the source {name!r} of {map_root}")
        for name, statistics in source_statistics(map_root).items()
    }


def _checked(value: float, mode: str, whose: str) -> float:
    if not 0 <= value < 1:
        raise ValueError(
            f"The box threshold {whose} by {mode!r} is {value:.4f}, outside [0, 1): every "
            "cell of the maps or none would be a defect. Change AGSSP.BOXES.MARGIN, QUANTILE or "
            "THRESHOLD."
        )
    return float(value)
