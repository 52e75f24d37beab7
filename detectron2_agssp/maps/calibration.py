"""From raw scores to [0, 1], over the corpus.

A scorer's raw range says nothing, and a high floor would make all unit-normalised maps alike (the
distillation loss compares unit vectors), so the corpus' median goes to 0 by default.
"""

from dataclasses import dataclass

import numpy as np


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
        cls, raw: np.ndarray, low_quantile: float = 0.5, high_quantile: float = 0.999
    ) -> "Calibration":
        """Calibrates by the quantiles of ``raw`` (any shape, raw scores of the corpus' cells).

        Raises:
            ValueError: quantiles out of order, no samples, samples that are not finite, or
                quantiles that coincide (the scorer sees no difference between the cells).
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
        low, high = np.quantile(raw, [low_quantile, high_quantile])
        if not high > low:
            raise ValueError(
                f"The quantiles {low_quantile} and {high_quantile} of the raw scores are both "
                f"{low:.6g}: the scorer sees no difference between the images' cells. Check that "
                "the images are not blank and that the scorer has weights."
            )
        return cls(float(low), float(high))

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Raw maps -> float32 in [0, 1], clipped, of the same shape."""
        return np.clip(self.unclipped(raw), 0, 1).astype(np.float32)

    def unclipped(self, raw: np.ndarray | float) -> np.ndarray | float:
        """The same without clipping, which keeps the order of the strongest image scores."""
        return (raw - self.low) / (self.high - self.low)
