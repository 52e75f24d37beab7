"""Checks of the arrays that come in: every message says what was received and what is expected."""

import numpy as np


def as_image(image: np.ndarray) -> np.ndarray:
    """The picture as it is: (H, W) grey or (H, W, 3) RGB, uint8, not empty."""
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise TypeError(f"an image must be uint8 in [0, 255], got {_describe(array)}")
    is_rgb = array.ndim == 3 and array.shape[2] == 3
    if not (array.ndim == 2 or is_rgb) or array.size == 0:
        raise ValueError(
            f"an image must be (H, W) grey or (H, W, 3) RGB and not empty, got {_describe(array)}"
        )
    return array


def as_rgb(image: np.ndarray) -> np.ndarray:
    """A new (H, W, 3) RGB array that may be painted on."""
    array = as_image(image)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.array(array, order="C")


def as_map(values: np.ndarray, what: str = "an anomaly map") -> np.ndarray:
    """A map, energy or mask as (h, w) float64; NaN and infinities are kept."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what} must hold real numbers, got {_describe(array)}")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{what} must be (h, w) and not empty, got {_describe(array)}")
    return array.astype(np.float64)


def as_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """(low, high), finite, low < high."""
    if len(value_range) == 2 and np.isfinite(value_range).all() and value_range[0] < value_range[1]:
        return value_range
    raise ValueError(f"value_range must be (low, high), finite, low < high; got {value_range!r}")


def as_boxes(boxes: np.ndarray) -> np.ndarray:
    """(K, 4) float64 XYXY boxes; an empty list is K = 0."""
    array = np.asarray(boxes)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.dtype.kind not in "fiu":
        raise TypeError(f"boxes must hold real numbers, got {_describe(array)}")
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must be (K, 4) XYXY in pixels, got {_describe(array)}")
    if not np.isfinite(array).all():
        raise ValueError(f"boxes must be finite, got {array[~np.isfinite(array).all(1)][0]}")
    inverted = (array[:, 2:] < array[:, :2]).any(axis=1)
    if inverted.any():
        raise ValueError(f"boxes must be XYXY with x1 <= x2, y1 <= y2, got {array[inverted][0]}")
    return array.astype(np.float64)


def _describe(array: np.ndarray) -> str:
    return f"shape {array.shape}, dtype {array.dtype}"
