"""Six classes of surface defects, each drawn into a reflectance image with its exact mask."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from detectron2_agssp.scoring.synthetic.noise import fractal_noise, smooth_noise, streak_noise

CLASSES = ("scratch", "pit", "crack", "inclusion", "patch", "scale")

MIN_AREA = 20  # px
MIN_LONG_SIDE = 6  # px; of the tight box

_OVERSAMPLING = 4  # lines are drawn this much larger: cv2's own anti-aliasing beads short segments
_ATTEMPTS = 30


@dataclass(frozen=True)
class Defect:
    """One defect instance.

    Attributes:
        class_name: one of :data:`CLASSES`.
        mask: (H, W) bool; true for every pixel the defect may have changed, and for no other.
    """

    class_name: str
    mask: np.ndarray


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Smallest box around a mask.

    Args:
        mask: (H, W) bool with at least one true pixel.

    Returns:
        ``(x, y, width, height)`` in whole pixels.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def add_defects(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float, classes: tuple[str, ...]
) -> tuple[np.ndarray, list[Defect]]:
    """Draw defects of the given classes at random places.

    Args:
        rng: source of all randomness.
        reflectance: (H, W) float32 surface; not modified.
        direction: rolling direction in radians in image coordinates.
        classes: names from :data:`CLASSES`, in drawing order.

    Returns:
        The (H, W) float32 surface with defects, and the defects in drawing order. Masks never
        overlap. A defect after the first is left out where no free place is found for it.

    Raises:
        RuntimeError: not even the first defect could be drawn.
    """
    defects: list[Defect] = []
    occupied = np.zeros(reflectance.shape, bool)
    for class_name in classes:
        drawn = draw_defect(rng, reflectance, direction, class_name, occupied)
        if drawn is not None:
            reflectance, mask = drawn
            occupied |= mask
            defects.append(Defect(class_name, mask))
        if not defects:
            raise RuntimeError(
                f"no {class_name} fits an image of {reflectance.shape} after {_ATTEMPTS} attempts"
            )
    return reflectance, defects


def draw_defect(
    rng: np.random.Generator,
    reflectance: np.ndarray,
    direction: float,
    class_name: str,
    occupied: np.ndarray,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw one defect at a random free place.

    Args:
        rng, reflectance, direction: as of :func:`add_defects`.
        class_name: one of :data:`CLASSES`.
        occupied: (H, W) bool; the defect keeps clear of it.

    Returns:
        The changed (H, W) float32 surface and the mask of the change; None where no free place is
        found.
    """
    for _ in range(_ATTEMPTS):
        # A draw that does not fit is thrown away.
        changed, mask = _DRAW[class_name](rng, reflectance, direction)
        if _large_enough(mask) and not (mask & occupied).any():
            return changed, mask
    return None


def _large_enough(mask: np.ndarray) -> bool:
    return int(mask.sum()) >= MIN_AREA and max(tight_box(mask)[2:]) >= MIN_LONG_SIDE


def _scratch(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Thin, gently curved line with a shadow of opposite sign along one side."""
    del direction
    length = rng.uniform(0.15, 0.6) * min(reflectance.shape)
    heading = rng.uniform(0.0, np.pi)
    bend = rng.normal(0.0, 0.5)  # total change of heading from end to end, radians
    headings = heading + bend * np.linspace(-0.5, 0.5, 24)
    steps = length / 24 * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    points = np.cumsum(steps, axis=0)
    middle = _random_point(rng, reflectance.shape)
    points += middle - points.mean(axis=0)
    widths = np.full(len(points) - 1, rng.uniform(0.8, 2.2))
    groove = _draw_polyline(reflectance.shape, points, widths)
    shadow = np.maximum(_draw_polyline(reflectance.shape, points + 1.5, widths) - groove, 0.0)
    # The tool touches down and lifts off: the ends are fainter.
    y, x = np.ogrid[: reflectance.shape[0], : reflectance.shape[1]]
    fade = 1.2 - (np.hypot(x - middle[0], y - middle[1]) / (length / 2)) ** 3
    unsteady = 1.0 + 0.3 * smooth_noise(rng, reflectance.shape, scale=12)
    pressure = np.clip(fade, 0.3, 1.0) * np.clip(unsteady, 0.5, 1.4)
    contrast = _contrast(rng, 0.12, 0.4) * rng.choice([1.0, -1.0], p=[0.65, 0.35])
    profile = groove - 0.5 * shadow
    mask = np.maximum(groove, 0.5 * shadow) > 0.25
    return _blend(reflectance, contrast * pressure * profile, mask)


def _pit(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dark round hole, or a cluster of them, with a rim that is bright towards the light."""
    del direction
    count = rng.choice([1, rng.integers(2, 8)])
    centre = _random_point(rng, reflectance.shape)
    largest = max(2.5, rng.uniform(0.01, 0.04) * min(reflectance.shape))
    light = rng.uniform(0.0, 2 * np.pi)
    contrast = _contrast(rng, 0.12, 0.4)
    y, x = np.ogrid[: reflectance.shape[0], : reflectance.shape[1]]
    change = np.zeros(reflectance.shape, np.float32)
    mask = np.zeros(reflectance.shape, bool)
    for number in range(count):
        radius = largest if number == 0 else rng.uniform(0.5, 1.0) * largest
        spread = 0.0 if number == 0 else 3.0 * largest
        dx, dy = x - centre[0] - rng.normal(0, spread), y - centre[1] - rng.normal(0, spread)
        angle = np.arctan2(dy, dx)
        stretch = 1.0 + rng.uniform(0.0, 0.2) * np.cos(2 * (angle - rng.uniform(0, np.pi)))
        distance = np.hypot(dx, dy) / (radius * stretch)  # 1 at the edge of the hole
        hole = np.clip(1.6 * (1.0 - distance**2), 0.0, 1.0)
        rim = np.exp(-(((distance - 1.1) / 0.15) ** 2)) * (0.6 + 0.4 * np.cos(angle - light))
        change += contrast * (0.6 * rim - hole)
        mask |= distance < 1.3
    return _blend(reflectance, change, mask)


def _crack(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dark jagged path that thins out and branches."""
    del direction
    step = 4.0  # px
    length = rng.uniform(0.15, 0.5) * min(reflectance.shape)
    width = rng.uniform(1.0, 2.5)
    first = (_random_point(rng, reflectance.shape), rng.uniform(0, 2 * np.pi), length, width)
    branches = [first]
    line = np.zeros(reflectance.shape, np.float32)
    while branches:
        start, heading, remaining, width = branches.pop()
        count = max(3, round(remaining / step))
        # The heading is a random walk pulled back to the overall heading, so cracks get somewhere.
        headings = heading + rng.normal(0.0, 0.45, count) + np.cumsum(rng.normal(0, 0.12, count))
        moves = step * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
        widths = np.maximum(0.8, width * np.linspace(1.0, 0.4, count))
        line = np.maximum(line, _draw_polyline(reflectance.shape, points, widths))
        if remaining > 6 * step:
            for at in rng.integers(1, count, size=rng.integers(0, 4)):
                turn = rng.uniform(0.4, 1.1) * rng.choice([-1.0, 1.0])
                part = rng.uniform(0.25, 0.5) * remaining
                branches.append((points[at], headings[at] + turn, part, 0.7 * width))
    contrast = _contrast(rng, 0.12, 0.4)
    return _blend(reflectance, -contrast * line, line > 0.25)


def _inclusion(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Foreign material rolled into the sheet: drawn out, streaky, with a ragged edge."""
    shape = reflectance.shape
    half_width = rng.uniform(0.012, 0.045) * min(shape) + 1.0
    radii = half_width * np.array([rng.uniform(2.0, 6.0), 1.0])
    mask = irregular_blob(rng, shape, radii, direction, roughness=0.3, scale=2 * half_width)
    # Bright ones get less contrast, or they would saturate on a bright sheet.
    contrast = _contrast(rng, 0.1, 0.35) * rng.choice([-1.0, 0.6], p=[0.7, 0.3])
    streaks = streak_noise(rng, shape, direction, length=4 * half_width, width=3)
    inside = soft_edge(mask, 2.0) * np.clip(1.0 + 0.35 * streaks, 0.3, 1.6)
    return _blend(reflectance, contrast * inside, mask)


def _patch(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Large cloudy area, slightly brighter or darker, with weaker or stronger texture."""
    shape = reflectance.shape
    radii = rng.uniform(0.08, 0.22, size=2) * min(shape)
    mask = irregular_blob(rng, shape, radii, direction, roughness=0.25, scale=radii.min())
    contrast = _contrast(rng, 0.05, 0.16) * rng.choice([-1.0, 1.0])
    background = cv2.blur(reflectance, (15, 15))
    texture_gain = rng.choice([rng.uniform(0.3, 0.7), rng.uniform(1.2, 1.6)])
    cloud = np.clip(1.0 + 0.25 * fractal_noise(rng, shape, scale=20, octaves=3), 0.3, 1.7)
    change = contrast * cloud + (texture_gain - 1.0) * (reflectance - background)
    return _blend(reflectance, soft_edge(mask, 4.0) * change, mask)


def _scale(
    rng: np.random.Generator, reflectance: np.ndarray, direction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Flaking oxide: plates of different darkness, lit at their edges, on a rough ground."""
    shape = reflectance.shape
    radii = rng.uniform(0.04, 0.2, size=2) * min(shape) + 3.0
    mask = irregular_blob(rng, shape, radii, direction, roughness=0.35, scale=0.5 * radii.min())
    flake = rng.uniform(8.0, 20.0)
    plates = np.rint(1.2 * fractal_noise(rng, shape, flake, octaves=3)) / 1.2
    edges = plates - np.roll(plates, (1, 1), axis=(0, 1))
    grit = smooth_noise(rng, shape, scale=1.5)
    contrast = _contrast(rng, 0.08, 0.25)
    change = contrast * (0.5 * plates + 0.7 * np.clip(edges, -1, 1) + 0.2 * grit - 0.6)
    return _blend(reflectance, soft_edge(mask, 1.5) * change, mask)


_DRAW: dict[str, Callable] = {
    "scratch": _scratch,
    "pit": _pit,
    "crack": _crack,
    "inclusion": _inclusion,
    "patch": _patch,
    "scale": _scale,
}


def _contrast(rng: np.random.Generator, subtle: float, clear: float) -> float:
    """Change of reflectance, log-uniform so that subtle defects are as common as clear ones."""
    return float(np.exp(rng.uniform(np.log(subtle), np.log(clear))))


def _random_point(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """``(x, y)`` at least a tenth of the image away from its border."""
    return rng.uniform(0.1, 0.9, size=2) * np.array(shape)[::-1]


def _draw_polyline(shape: tuple[int, int], points: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """(H, W) float32 coverage in [0, 1] of the line through (N, 2) points; N - 1 widths in px."""
    height, width = shape
    canvas = np.zeros((height * _OVERSAMPLING, width * _OVERSAMPLING), np.uint8)
    corners = np.rint((points + 0.5) * _OVERSAMPLING - 0.5).astype(int).tolist()
    thicknesses = np.rint(widths * _OVERSAMPLING).astype(int).tolist()
    for start, end, thickness in zip(corners[:-1], corners[1:], thicknesses, strict=True):
        cv2.line(canvas, start, end, 255, thickness)
    coverage = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / 255.0


def irregular_blob(
    rng: np.random.Generator,
    shape: tuple[int, int],
    radii: np.ndarray,
    angle: float,
    roughness: float,
    scale: float,
) -> np.ndarray:
    """(H, W) bool: one connected blob without holes around a random point.

    It is an ellipse with the two semi-axes ``radii`` px, the first along ``angle``, whose edge is
    displaced by noise of about ``roughness`` times the radius, with bumps of about ``scale`` px.
    """
    centre = _random_point(rng, shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    dx, dy = x - centre[0], y - centre[1]
    along = (np.cos(angle) * dx + np.sin(angle) * dy) / radii[0]
    across = (np.cos(angle) * dy - np.sin(angle) * dx) / radii[1]
    noise = fractal_noise(rng, shape, max(3.0, scale), octaves=3)
    level = 1.0 - np.hypot(along, across) + roughness * noise
    contours, _ = cv2.findContours(
        (level > 0.0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = np.zeros(shape, np.uint8)
    if contours:
        largest = max(contours, key=cv2.contourArea)
        cv2.drawContours(filled, [largest], 0, 1, thickness=cv2.FILLED)
    return filled.astype(bool)


def soft_edge(mask: np.ndarray, width: float) -> np.ndarray:
    """(H, W) float32 weight: 0 outside the mask, rising to 1 over ``width`` px inside it."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    return np.minimum(depth / np.float32(width), 1.0)


def _blend(
    reflectance: np.ndarray, change: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Apply ``change`` inside ``mask`` only, which is what makes the mask exact."""
    return np.where(mask, reflectance + change, reflectance).astype(np.float32), mask
