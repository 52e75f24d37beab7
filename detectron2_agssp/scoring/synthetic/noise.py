"""Random fields from which surfaces and defects are made.

Every function returns a float32 array of the requested ``(height, width)`` with zero mean and unit
standard deviation, so that callers set the amplitude with one multiplication. Lengths are in
pixels. Angles are in radians in image coordinates: 0 points right, pi / 2 points down.
"""

import cv2
import numpy as np


def white_noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Independent Gaussian noise."""
    return rng.standard_normal(shape, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Isotropic noise whose blobs are about ``scale`` pixels wide."""
    # A coarse grid costs less the larger the scale; without the blur its squares would show.
    height, width = shape
    step = max(1, round(scale / 3))
    grid = white_noise(rng, (height // step + 4, width // step + 4))
    grid = cv2.GaussianBlur(grid, (0, 0), 0.4 * scale / step)
    enlarged = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    return _standardise(enlarged[step : step + height, step : step + width])


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, octaves: int = 4
) -> np.ndarray:
    """Sum of :func:`smooth_noise` with halving ``scale`` and amplitude."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += 0.5**octave * smooth_noise(rng, shape, max(1.5, scale / 2**octave))
    return _standardise(total)


def streak_noise(
    rng: np.random.Generator, shape: tuple[int, int], angle: float, length: float, width: float
) -> np.ndarray:
    """Streaks along ``angle``, about ``length`` long and ``width`` across."""
    height, columns = shape
    # Streaks are cheap to make along the rows of a square that still covers the image once rotated.
    side = int(np.ceil(np.hypot(height, columns))) + 4
    canvas = white_noise(rng, (side, side))
    kernel = (max(1, round(length / 2)), max(1, round(width / 2)))
    # Two box filters approximate a Gaussian at a cost that does not grow with the length.
    for _ in range(2):
        canvas = cv2.blur(canvas, kernel)
    rotation = cv2.getRotationMatrix2D((side / 2, side / 2), -np.degrees(angle), 1.0)
    rotation[:, 2] += (columns - side) / 2, (height - side) / 2
    return _standardise(cv2.warpAffine(canvas, rotation, (columns, height)))


def _standardise(field: np.ndarray) -> np.ndarray:
    mean, deviation = cv2.meanStdDev(field)
    return (field - np.float32(mean.item())) / np.float32(max(deviation.item(), 1e-6))
