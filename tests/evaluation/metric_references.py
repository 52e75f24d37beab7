"""Maps with masks, and the per-region overlap computed the plain way."""

import itertools

import numpy as np
from scipy import ndimage


def make_pairs(seed, sizes=((30, 50), (41, 23), (16, 16)), levels=None):
    """Maps that follow their masks loosely; ``levels`` rounds them, which makes ties."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for size in sizes:
        # Little smoothed, so that some regions touch at corners only.
        mask = ndimage.gaussian_filter(rng.random(size), 0.8) > 0.65
        noisy = rng.random(size) + 0.7 * mask
        maps.append(np.round(noisy * levels) / levels if levels else noisy)
        masks.append(mask)
    return maps, masks


def plain_aupro(maps, masks, limit):
    """Every threshold by itself: regions found, normal pixels hit."""
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [anomaly_map[labels == number] for number in range(1, count + 1)]
    normal = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    curve = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        curve.append(((normal >= threshold).mean(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 < limit < x1:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / limit
