"""Pixel-level figures of any number of anomaly maps, in a fixed amount of memory.

What :func:`~detectron2_agssp.evaluation.anomaly_metrics` reads off the ranking of all pixels is
read off histograms of the scores here. Every edge between two bins is a threshold, and there the
counts are exact; only the order of the pixels within a bin is lost, which with 65,536 bins hardly
shows in the fourth decimal. All state is integers: it does not depend on the order of the images.
"""

import numpy as np

from detectron2_agssp.evaluation.metrics import checked_pair, figures_of_curve, label_regions

# A region that is found in full counts 2^32 in the histogram of the overlap: shares are rounded by
# less than 2^-32, regions may have up to 2^31 pixels, and int64 holds 2^31 of them.
REGION_BITS = 32


class MapMetrics:
    """AUROC, average precision, best F1 and AUPRO, from one map after the other.

    Attributes:
        num_bins: equal intervals of (0, 1). Scores of exactly 0 and exactly 1, where calibration
            clips, have bins of their own.
        num_images, num_regions: how many maps, and 8-connected regions of defect, were added.
    """

    def __init__(self, num_bins: int = 2**16):
        self.num_bins = num_bins
        self.num_images = 0
        self.num_regions = 0
        self._defect = np.zeros(num_bins + 2, np.int64)
        self._normal = np.zeros(num_bins + 2, np.int64)
        self._overlap = np.zeros(num_bins + 2, np.int64)  # in 2^-REGION_BITS of a region

    def update(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Adds one image.

        Args:
            anomaly_map: (H, W), in [0, 1]; higher is more anomalous.
            mask: (H, W); non-zero or True is defect.

        Raises:
            ValueError: the shapes differ, or a score is not a number in [0, 1].
        """
        anomaly_map, mask = checked_pair(anomaly_map, mask, self.num_images)
        scores, is_defect = anomaly_map.ravel().astype(np.float64), mask.ravel()
        low, high = scores.min(initial=1), scores.max(initial=0)
        if low < 0 or high > 1:
            raise ValueError(
                f"Map {self.num_images} has scores from {low:.4g} to {high:.4g}; expected [0, 1]. "
                "Calibrate or clip it first, or use anomaly_metrics, which takes any range."
            )
        # Bin i has the scores in ((i - 1) / num_bins, i / num_bins], so 0 has one for itself.
        bins = np.ceil(scores * self.num_bins).astype(np.int64)
        bins[scores == 1] = self.num_bins + 1
        self._defect += np.bincount(bins[is_defect], minlength=self._defect.size)
        self._normal += np.bincount(bins[~is_defect], minlength=self._normal.size)
        self._add_regions(bins[is_defect], *label_regions(mask), is_defect)
        self.num_images += 1

    def _add_regions(self, bins, labels, sizes, is_defect) -> None:
        # Rounded is what a threshold has found of a region, not the weight 1 / size of each pixel:
        # so the error does not add up over the pixels, and all of a region is exactly 1.
        falling = self.num_bins + 1 - bins
        keys = labels.ravel()[is_defect].astype(np.int64) * self._overlap.size + falling
        keys, counts = np.unique(keys, return_counts=True)
        region, falling = np.divmod(keys, self._overlap.size)
        # Pixels of the region in this bin and higher ones: less those of the regions before it.
        found = np.cumsum(counts) - (np.cumsum(sizes) - sizes - sizes[0])[region]
        share = (found << REGION_BITS) // sizes[region]
        first_of_region = np.diff(region, prepend=0) > 0
        gained = share - np.where(first_of_region, 0, np.roll(share, 1))
        np.add.at(self._overlap, self.num_bins + 1 - falling, gained)
        self.num_regions += sizes.size - 1

    def compute(self) -> dict[str, float]:
        """``{"auroc", "ap", "f1_max", "aupro"}``, each in [0, 1], as ``anomaly_metrics`` would
        give them if the scores of a bin were equal.

        Raises:
            ValueError: there is no map, no defect pixel or no normal pixel.
        """
        if not self.num_images:
            raise ValueError("There are no maps to judge.")
        filled = np.flatnonzero(self._defect + self._normal)[::-1]  # of falling score
        found = np.cumsum(self._defect[filled])
        selected = found + np.cumsum(self._normal[filled])
        full = max(self.num_regions, 1) * 2.0**REGION_BITS
        return figures_of_curve(found, selected, np.cumsum(self._overlap[filled]) / full)
