"""From raw scores to [0, 1], over the corpus.

A scorer's raw range says nothing, and a high floor would make all unit-normalised maps alike (the
distillation loss compares unit vectors), so the corpus' median goes to 0 by default.
"""

import logging
from dataclasses import dataclass

import numpy as np

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """The linear map that sends ``low`` to 0 and ``high`` to 1.

    Attributes:
        low, high: raw scores.
    """

    low: float
    high: float

    @classmethod
    def from_samples(
        cls,
        raw: np.ndarray,
        low_quantile: float = 0.5,
        high_quantile: float = 0.999,
        noise: float = 1e-5,
    ) -> "Calibration":
        """Calibrates by the quantiles of ``raw`` (any shape, raw scores of the corpus' cells).

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
        return cls(low, high)

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Raw maps -> float32 in [0, 1], clipped, of the same shape."""
        return np.clip(self.unclipped(raw), 0, 1).astype(np.float32)

    def unclipped(self, raw: np.ndarray | float) -> np.ndarray | float:
        """The same without clipping, which keeps the order of the strongest image scores."""
        return (raw - self.low) / (self.high - self.low)
