"""From an image's number to its content: what it shows is planned first, then rendered."""

from dataclasses import dataclass

import numpy as np

from detectron2_agssp.scoring.synthetic.defects import CLASSES, Defect, add_defects
from examples.quickstart.synthetic.surfaces import SURFACES, make_surface, photograph

SPLITS = ("train", "test")
DEFECT_COUNT_PROBABILITIES = (0.6, 0.25, 0.15)  # of 1, 2 and 3 defects in an image with any


@dataclass(frozen=True)
class ImagePlan:
    """What one image will show.

    Attributes:
        file_name: ``<surface>/<surface>_<first class or "normal">_<index>.png``.
        surface: one of :data:`SURFACES`.
        classes: the classes of the defects to draw; empty for a normal image.
        size: ``(height, width)`` in pixels.
        seeds: one seed each for the surface, the defects and the camera. Separate seeds let the
            same surface be rendered with and without its defects.
    """

    file_name: str
    surface: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    seeds: tuple[np.random.SeedSequence, ...]


def plan_image(
    seed: int,
    split: str,
    index: int,
    sizes: tuple[tuple[int, int], ...],
    normal_fraction: float,
    *,
    classes: tuple[str, ...] = CLASSES,
    surfaces: tuple[str, ...] = SURFACES,
) -> ImagePlan:
    """Plan image ``index`` of a split, independently of all other images.

    Whether an image is normal, its surface and the class of its first defect follow from its index
    alone, in turns, so that even a small set holds every class on every surface in equal shares: as
    many images with defects are enough as there are pairs of both. The rest is random.

    Args:
        seed: seed of the whole set, at least 0.
        split: one of :data:`SPLITS`.
        index: number of the image in its split, from 0.
        sizes: ``(height, width)`` pairs to choose from.
        normal_fraction: share of images without defects, in [0, 1].
        classes: those to draw from :data:`CLASSES`.
        surfaces: those to draw from :data:`SURFACES`.
    """
    sequence = np.random.SeedSequence([seed, SPLITS.index(split), index])
    plan_seed, *seeds = sequence.spawn(4)
    rng = np.random.default_rng(plan_seed)
    size = sizes[rng.integers(len(sizes))]

    normal_before = int(index * normal_fraction)
    is_normal = int((index + 1) * normal_fraction) > normal_before
    if is_normal:
        surface = surfaces[normal_before % len(surfaces)]
        drawn = ()
    else:
        # Without a shift after each round of the classes, a class would always meet the same
        # surface where the two numbers share a factor.
        rounds, turn = divmod(index - normal_before, len(classes))
        surface = surfaces[(turn + rounds) % len(surfaces)]
        extra = rng.choice(len(DEFECT_COUNT_PROBABILITIES), p=DEFECT_COUNT_PROBABILITIES)
        drawn = (classes[turn], *rng.choice(classes, size=extra).tolist())
    label = drawn[0] if drawn else "normal"
    file_name = f"{surface}/{surface}_{label}_{index:05d}.png"
    return ImagePlan(file_name, surface, drawn, size, tuple(seeds))


def render_image(plan: ImagePlan, with_defects: bool = True) -> tuple[np.ndarray, list[Defect]]:
    """Render a planned image.

    Args:
        plan: from :func:`plan_image`.
        with_defects: false renders the same surface, light and sensor noise without the defects.

    Returns:
        The (H, W, 3) uint8 RGB image and its defects. Outside the defects' masks both renderings
        of a plan are equal.
    """
    surface_rng, defect_rng, camera_rng = (np.random.default_rng(seed) for seed in plan.seeds)
    surface = make_surface(surface_rng, plan.surface, plan.size)
    reflectance, defects = surface.reflectance, []
    if with_defects and plan.classes:
        reflectance, defects = add_defects(defect_rng, reflectance, surface.direction, plan.classes)
    return photograph(camera_rng, reflectance), defects
