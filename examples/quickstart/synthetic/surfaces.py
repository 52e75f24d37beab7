"""Defect-free metal surfaces and the camera that looks at them."""

from dataclasses import dataclass

import cv2
import numpy as np

from detectron2_agssp.scoring.synthetic.noise import (
    fractal_noise,
    smooth_noise,
    streak_noise,
    white_noise,
)

SURFACES = ("rolled", "brushed", "cast")


@dataclass(frozen=True)
class Surface:
    """A surface without defects.

    Attributes:
        reflectance: (H, W) float32, about 0.2 to 0.9.
        direction: rolling or brushing direction in radians in image coordinates.
    """

    reflectance: np.ndarray
    direction: float


def make_surface(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Surface:
    """Draw a random surface.

    Args:
        rng: source of all randomness.
        kind: one of :data:`SURFACES`.
        shape: ``(height, width)`` in pixels.

    Returns:
        The surface; its texture, contrast and direction differ from draw to draw.
    """
    # Sheets pass the camera along or across the image, never perfectly aligned.
    direction = rng.choice([0.0, np.pi / 2]) + rng.normal(0.0, 0.06)
    texture = _TEXTURES[kind](rng, shape, direction)
    reflectance = rng.uniform(0.42, 0.66) + rng.uniform(0.7, 1.3) * texture
    return Surface(reflectance.astype(np.float32), float(direction))


def photograph(rng: np.random.Generator, reflectance: np.ndarray) -> np.ndarray:
    """Light a surface unevenly and record it with a noisy, slightly tinted camera.

    The draws depend only on the shape of ``reflectance``: with equal generators, two surfaces that
    differ in some pixels give images that differ in those pixels only.

    Args:
        rng: source of all randomness.
        reflectance: (H, W) float32, see :class:`Surface`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    noise_deviation = rng.uniform(0.006, 0.02)
    luminance = reflectance * _illumination(rng, reflectance.shape)
    luminance += noise_deviation * white_noise(rng, reflectance.shape)
    tint = 1.0 + rng.uniform(-0.03, 0.03) * np.array([1.0, 0.0, -1.0])
    scaled = [np.clip(np.rint(luminance * (255.0 * gain)), 0, 255) for gain in tint]
    return cv2.merge([channel.astype(np.uint8) for channel in scaled])


def _illumination(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 brightness factor around 1: a gradient, slow blotches, perhaps a highlight."""
    height, width = shape
    angle = rng.uniform(0.0, 2 * np.pi)
    y = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    x = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    light = 1.0 + np.float32(rng.uniform(0.03, 0.2)) * along
    light += np.float32(rng.uniform(0.01, 0.05)) * smooth_noise(rng, shape, max(shape) / 2)
    if rng.random() < 0.4:
        offset, spread = rng.uniform(-0.8, 0.8), rng.uniform(0.2, 0.5)
        band = np.exp(-0.5 * ((along - offset) / spread) ** 2)
        light += np.float32(rng.uniform(0.08, 0.2)) * band.astype(np.float32)
    return light


def _rolled(rng: np.random.Generator, shape: tuple[int, int], direction: float) -> np.ndarray:
    """Long, soft rolling streaks over slow variations of the sheet."""
    broad = streak_noise(rng, shape, direction, length=400, width=rng.uniform(8, 24))
    fine = streak_noise(rng, shape, direction, length=rng.uniform(60, 160), width=2)
    cloud = fractal_noise(rng, shape, scale=60, octaves=3)
    grain = smooth_noise(rng, shape, scale=1.5)
    return (
        rng.uniform(0.01, 0.035) * broad
        + rng.uniform(0.012, 0.03) * fine
        + rng.uniform(0.005, 0.02) * cloud
        + rng.uniform(0.005, 0.015) * grain
    )


def _brushed(rng: np.random.Generator, shape: tuple[int, int], direction: float) -> np.ndarray:
    """Strong fine hairlines of differing length, some of them standing out."""
    hairs = streak_noise(rng, shape, direction, length=rng.uniform(30, 90), width=2)
    strands = streak_noise(rng, shape, direction, length=rng.uniform(80, 200), width=3)
    bands = streak_noise(rng, shape, direction, length=500, width=rng.uniform(12, 40))
    # The cube keeps only the strongest strands: isolated bright and dark hairlines.
    return (
        rng.uniform(0.045, 0.075) * hairs
        + rng.uniform(0.004, 0.01) * np.clip(strands, -2.5, 2.5) ** 3
        + rng.uniform(0.01, 0.025) * bands
    )


def _cast(rng: np.random.Generator, shape: tuple[int, int], direction: float) -> np.ndarray:
    """Granular, blotchy skin without direction, with small dark pores."""
    del direction
    blotches = fractal_noise(rng, shape, scale=rng.uniform(25, 70), octaves=4)
    grains = smooth_noise(rng, shape, scale=rng.uniform(2.0, 4.0))
    speckle = smooth_noise(rng, shape, scale=1.5)
    pores = np.maximum(smooth_noise(rng, shape, scale=3.0) - rng.uniform(1.2, 2.0), 0.0)
    return (
        rng.uniform(0.015, 0.04) * blotches
        + rng.uniform(0.02, 0.05) * grains
        + rng.uniform(0.01, 0.03) * speckle
        - rng.uniform(0.04, 0.12) * pores
    )


_TEXTURES = {"rolled": _rolled, "brushed": _brushed, "cast": _cast}
