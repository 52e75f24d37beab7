"""The threshold that turns maps into boxes, from the statistics of the whole map folder."""

import contextlib
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
    store = MapStore(map_root)
    cache = store.root / "statistics.json"
    # Raises where there is no manifest.
    iterator = store.entries()
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"The manifest of {store.root} is empty: there are no maps.")
    stamp = [store.manifest_path.stat().st_size, store.manifest_path.stat().st_mtime_ns]
    # A cache that another version wrote, or nobody, is made anew.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ArithmeticError):
        cached = read_json(cache)
        count, mean_max = int(cached["num_maps"]), float(cached["mean_max"])
        histogram = np.array(cached["histogram"], np.int64)
        is_whole = histogram.shape == (NUM_FLOAT16_VALUES,) and 0 <= mean_max <= 1
        if is_whole and cached["manifest"] == stamp:
            return MapStatistics(count, mean_max, histogram.tolist())
    count, sum_of_maxima = 0, 0.0
    histogram = np.zeros(NUM_FLOAT16_VALUES, np.int64)
    # Seconds for a hundred thousand small maps, but minutes where the folder is remote.
    bar = tqdm(store.entries(), desc="map statistics", unit="map", delay=PROGRESS_DELAY)
    for entry in bar:
        anomaly_map = load_map(store.root / entry["map"])
        count += 1
        sum_of_maxima += float(anomaly_map.max())
        bits = np.abs(anomaly_map).astype(np.float16).view(np.uint16)
        histogram += np.bincount(bits.ravel(), minlength=NUM_FLOAT16_VALUES)
    statistics = MapStatistics(count, sum_of_maxima / count, histogram.tolist())
    # A read-only map folder works too; its statistics are then computed each time.
    with contextlib.suppress(OSError):
        write_json(cache, {**asdict(statistics), "manifest": stamp})
    return statistics


def box_threshold(
    map_root: str | Path,
    mode: str = "mean_max",
    *,
    margin: float = 0.1,
    quantile: float = 0.99,
    threshold: float = 0.5,
) -> float:
    """The threshold for the maps of one folder, in [0, 1).

    Args:
        map_root: the map folder.
        mode: "mean_max": the mean of the maps' maxima minus ``margin`` (the paper's); "quantile":
            the ``quantile`` of all cells; "fixed": ``threshold`` as given.
        margin, quantile, threshold: in the maps' units, [0, 1].

    Raises:
        ValueError: unknown mode, or a threshold outside [0, 1), at which every cell or none would
            be a defect.
    """
    if mode == "fixed":
        value = threshold
    elif mode == "quantile":
        if not 0 <= quantile <= 1:
            raise ValueError(f"AGSSP.BOXES.QUANTILE must be in [0, 1], got {quantile}.")
        value = map_statistics(map_root).quantile(quantile)
    elif mode == "mean_max":
        value = map_statistics(map_root).mean_max - margin
    else:
        raise ValueError(
            f"AGSSP.BOXES.THRESHOLD_MODE is {mode!r}. Choices: {', '.join(THRESHOLD_MODES)}."
        )
    if not 0 <= value < 1:
        raise ValueError(
            f"The box threshold of {map_root} by {mode!r} is {value:.4f}, outside [0, 1): every "
            "cell of the maps or none would be a defect. Change AGSSP.BOXES.MARGIN, QUANTILE or "
            "THRESHOLD."
        )
    return float(value)
