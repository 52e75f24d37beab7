"""Calm windows: what is least odd in a folder's images, to fit on where none is known to be
normal."""

import itertools
import os

import cv2
import numpy as np
import torch

from detectron2_agssp.io.images import ImageReader, list_images
from detectron2_agssp.maps.fit import fit_stages
from detectron2_agssp.maps.image_stream import sample_paths, sample_paths_by_source
from detectron2_agssp.maps.normal import normal_images_by_source
from detectron2_agssp.maps.score import image_loader, score_batch
from detectron2_agssp.maps.windows import Window, calmest_window
from detectron2_agssp.scoring.base import AnomalyScorer
from detectron2_agssp.scoring.build import build_anomaly_scorer
from detectron2_agssp.scoring.coreset import greedy_k_center

# Compares the images with each other, and needs nothing else.
FIRST_SCORER = "mutual"
# Of which the windows are, unless more windows than half of them are asked for.
SAMPLED_IMAGES = 200
# Windows that are compared, as a multiple of those taken: more would be other, and odder.
CANDIDATES = 2
# Pixels a side of what windows are compared by.
THUMBNAIL = 8


def find_calm_windows(
    cfg, scorer: AnomalyScorer, image_root: str, progress: bool = True
) -> list[Window]:
    """The ``AGSSP.SCORER.CALM_WINDOWS`` that ``scorer`` is fitted on: none where the key is 0, or
    the scorer does not fit on normal images.

    A first map of the images, or of a seeded sample of them, by :data:`FIRST_SCORER` with the same
    features and image size, gives each its window of the lowest mean. Twice as many of the calmest
    as are asked for, taken from the sources in turn, are thinned out to those that differ most in
    their pixels. Where ``AGSSP.SCORER.PER_SOURCE`` is on and there are several sources, each that
    has no normal images gets as many, of its own images.

    Args:
        cfg: its ``AGSSP.SCORER`` is ``scorer``'s.
        scorer: what is to be fitted.
        image_root: folder of the images.
        progress: show progress bars.

    Returns:
        at most one of an image, and fewer than CALM_WINDOWS where there are fewer images.

    Raises:
        ValueError: settings out of range, images that cannot be compared, or none with a window.
    """
    settings = cfg.AGSSP.SCORER
    count = settings.CALM_WINDOWS
    if count < 0 or not 0 < settings.CALM_SIDE <= 1:
        raise ValueError(
            "AGSSP.SCORER.CALM_WINDOWS must be 0 or more and CALM_SIDE in (0, 1], got "
            f"{count} and {settings.CALM_SIDE}."
        )
    if count == 0 or all(stage.sample != "normal" for stage in scorer.fit_stages()):
        return []
    number = max(SAMPLED_IMAGES, CANDIDATES * count)
    if settings.PER_SOURCE:
        sampled = sample_paths_by_source(list_images(image_root), number, settings.SEED, image_root)
        if len(sampled) > 1:
            without = sampled.keys() - normal_images_by_source(cfg, image_root).keys()
            images = [image for source in sampled if source in without for image in sampled[source]]
            ranked = _calmest_by_source(cfg, images, image_root, progress) if images else []
            return [
                window
                for windows in ranked
                for window in _different(cfg, windows[: CANDIDATES * count], image_root)
            ]
    images = sample_paths(list_images(image_root), number, settings.SEED)
    by_source = _calmest_by_source(cfg, images, image_root, progress)
    if not by_source:
        raise ValueError(
            f"AGSSP.SCORER.CALM_WINDOWS: none of {len(images)} images of {image_root} could be "
            f"read and scored by {FIRST_SCORER!r}. Name normal images in NORMAL_IMAGES instead."
        )
    # Scores of different sources are not compared.
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_source))
    candidates = [window for window in in_turn if window is not None][: CANDIDATES * count]
    return _different(cfg, candidates, image_root)


def _calmest_by_source(
    cfg, images: list[str], image_root: str, progress: bool
) -> list[list[Window]]:
    """Of each source its images' windows, the calmest first."""
    first = cfg.clone()
    first.defrost()
    first.AGSSP.SCORER.NAME = FIRST_SCORER
    scorer = build_anomaly_scorer(first)
    loader = image_loader(first, scorer, image_root)
    try:
        fit_stages(first, scorer, loader, len(images), progress)
    except ValueError as error:
        raise ValueError(f"AGSSP.SCORER.CALM_WINDOWS takes a first map: {error}") from error
    found: dict[str, list] = {}
    for batch in loader(images):
        scored = score_batch(scorer, batch, loader.batch_size)
        for info, result in zip(batch.infos, scored, strict=True):
            if np.isfinite(result.map).all():
                size = info["height"], info["width"]
                share = cfg.AGSSP.SCORER.CALM_SIDE
                window = calmest_window(result.map, info["image"], *size, share)
                found.setdefault(info["source"], []).append(window)
    ranked = (sorted(windows, key=lambda found: found[0]) for windows in found.values())
    return [[window for _, window in windows] for windows in ranked]


def _different(cfg, candidates: list[Window], image_root: str) -> list[Window]:
    """Those of the ``candidates`` that are farthest from each other in their pixels."""
    reader, size = ImageReader(cfg), (THUMBNAIL, THUMBNAIL)
    pictures = (window.cut(reader(os.path.join(image_root, window.image))) for window in candidates)
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    vectors = torch.from_numpy(np.stack(small)).float().flatten(1)
    settings = cfg.AGSSP.SCORER
    chosen = greedy_k_center(vectors, settings.CALM_WINDOWS, settings.SEED)
    return [candidates[index] for index in sorted(chosen.tolist())]
