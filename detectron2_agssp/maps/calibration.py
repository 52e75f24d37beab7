"""From raw scores to [0, 1], over the corpus.

A scorer's raw range says nothing, and a high floor would make all unit-normalised maps alike (the
distillation loss compares unit vectors), so the corpus' median goes to 0 by default.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """The linear map that sends ``low`` to 0 and ``high`` to 1.

    Attributes:
        low, high: raw scores.
        border: what is taken off the raw scores of cells 0, 1, ... cells from the border, as
            :func:`border_excess` gives it.
        sources: of sources with a calibration of their own (``AGSSP.CALIBRATION.PER_SOURCE``).
    """

    low: float
    high: float
    border: tuple[float, ...] = ()
    sources: Mapping[str, "Calibration"] = field(default_factory=dict)

    def of(self, source: str) -> "Calibration":
        """What the maps of a source are calibrated by."""
        return self.sources.get(source, self)

    def as_json(self) -> dict:
        """As ``scorer.json`` has it."""
        content = asdict(self)
        content.pop("sources")
        if self.sources:
            content["sources"] = {name: own.as_json() for name, own in self.sources.items()}
        return content

    @classmethod
    def from_json(cls, content: dict) -> "Calibration":
        """Of :meth:`as_json`, whose values were checked."""
        own = {name: cls.from_json(part) for name, part in content.get("sources", {}).items()}
        return cls(content["low"], content["high"], tuple(content.get("border", ())), own)

    @classmethod
    def from_samples(
        cls,
        raw: np.ndarray,
        low_quantile: float = 0.5,
        high_quantile: float = 0.999,
        noise: float = 1e-5,
        border: tuple[float, ...] = (),
    ) -> "Calibration":
        """Calibrates by the quantiles of ``raw`` (any shape, raw scores of the corpus' cells, from
        which ``border`` is taken off already).

        Quantiles that differ by no more than ``noise`` (a share of the larger of 1 and the largest
        score) are not stretched to [0, 1]: the maximum takes the upper one's place, or, where that
        is no more than noise either, all maps will be next to 0. A warning says so.

        Raises:
            ValueError: quantiles out of order, no samples, samples that are not finite, or all the
                same (the scorer sees no difference between the cells).
        """
        if not 0 <= low_quantile < high_quantile <= 1:
            raise ValueError(
                "AGSSP.CALIBRATION needs 0 <= LOW_QUANTILE < HIGH_QUANTILE <= 1, got "
                f"{low_quantile} and {high_quantile}."
            )
        if raw.size == 0:
            raise ValueError("Calibration was given no scores.")
        if not np.isfinite(raw).all():
            share = 1 - np.isfinite(raw).mean()
            raise ValueError(f"{share:.1%} of the raw scores to calibrate on are not finite.")
        low, high, largest = np.quantile(raw, [low_quantile, high_quantile, 1]).tolist()
        advice = "Check that the images are not blank or copies, and that the scorer has weights."
        if raw.min() == largest:
            raise ValueError(
                f"All raw scores are {largest:.6g}: the scorer sees no difference between the "
                f"images' cells. {advice}"
            )
        scale = max(1.0, float(np.abs(raw).max()))
        if high - low <= noise * scale:
            logger.warning(
                "The quantiles %g and %g of the raw scores, %.6g and %.6g, differ by rounding "
                "alone, which is not stretched to [0, 1]. %s",
                low_quantile,
                high_quantile,
                low,
                high,
                advice,
            )
            high = largest if largest - low > noise * scale else low + scale
        return cls(low, high, border)

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Raw maps (..., h, w) -> float32 in [0, 1], clipped, of the same shape."""
        return np.clip(self.unclipped(without_border(raw, self.border)), 0, 1).astype(np.float32)

    def unclipped(self, raw: np.ndarray | float) -> np.ndarray | float:
        """The same without clipping, which keeps the order of the strongest image scores."""
        return (raw - self.low) / (self.high - self.low)


def border_excess(maps: Sequence[np.ndarray]) -> tuple[float, ...]:
    """What mean raw scores are above those of the inside, 0, 1, ... cells from the border of a map,
    up to a quarter of the smallest map's side; 0 where they are below them.

    Half of a cell's surroundings is missing there, so that its features differ from those inside,
    of which there are more: scores are higher, whatever the image shows, and mirroring the image
    does not help. Where energies are lower, raising them was worse.

    Args:
        maps: batches (N, h, w), of any sizes.

    Returns:
        the differences; none where a score is not finite.
    """
    depth = min(min(batch.shape[1:]) for batch in maps) // 4
    sums, counts = np.zeros(depth + 1), np.zeros(depth + 1)
    for batch in maps:
        rings = np.minimum(_border_distance(*batch.shape[1:]), depth).ravel()
        sums += np.bincount(rings, batch.mean(axis=0, dtype=np.float64).ravel()) * len(batch)
        counts += np.bincount(rings) * len(batch)
    means = sums / counts
    excess = np.maximum(means[:-1] - means[-1], 0)
    return tuple(excess.tolist()) if np.isfinite(excess).all() else ()


def without_border(raw: np.ndarray, border: tuple[float, ...]) -> np.ndarray:
    """Raw maps (..., h, w) without what :func:`border_excess` has found."""
    if not border:
        return raw
    rings = np.minimum(_border_distance(*raw.shape[-2:]), len(border))
    return raw - np.array([*border, 0], raw.dtype)[rings]


def _border_distance(height: int, width: int) -> np.ndarray:
    """(h, w): cells between each cell and the nearest border."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (height, width))
    return np.minimum.outer(rows, columns)
