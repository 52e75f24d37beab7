"""Images, as the scorer wants them, to raw maps: one per image, whatever crops it was scored in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.geometry import InputGeometry, assemble
from detectron2_agssp.maps.image_stream import DecodedBatch, ImageLoader
from detectron2_agssp.scoring.base import AnomalyScorer

# Processes that decode images while a GPU scores others.
GPU_WORKERS = 4


@dataclass
class ScoredImage:
    """Raw scores of one image: its map (h, w) and its score."""

    map: np.ndarray
    score: float


def image_loader(
    cfg, scorer: AnomalyScorer, image_root: str | Path, reader: Callable | None = None
) -> ImageLoader:
    """The stream of images that ``scorer`` and ``cfg.AGSSP.SCORER`` want; read by ``reader``, a
    file's path -> (H, W, 3) uint8, or as ``cfg.AGSSP.INPUT`` says."""
    settings = cfg.AGSSP.SCORER
    num_workers = settings.NUM_WORKERS
    if num_workers < 0:
        num_workers = GPU_WORKERS if scorer.device.type == "cuda" else 0
    return ImageLoader(
        image_root,
        geometry=input_geometry(cfg, scorer),
        batch_size=settings.BATCH_SIZE,
        num_workers=num_workers,
        reader=reader or ImageReader(cfg),
        separate_sources=scorer.told_source,
    )


def input_geometry(cfg, scorer: AnomalyScorer) -> InputGeometry:
    """How ``cfg.AGSSP.SCORER`` brings images to the scorer's size."""
    settings = cfg.AGSSP.SCORER
    return InputGeometry(
        mode=settings.RESIZE,
        image_size=scorer.image_size,
        divisor=scorer.size_divisor,
        stride=scorer.stride,
        overlap=settings.TILE_OVERLAP,
        scale=settings.TILE_SCALE,
    )


def score_batch(scorer: AnomalyScorer, batch: DecodedBatch, batch_size: int) -> list[ScoredImage]:
    """Scores a decoded batch, at most ``batch_size`` crops at a time; one result an image."""
    maps: list[list[np.ndarray]] = [[] for _ in batch.infos]
    scores: list[list[float]] = [[] for _ in batch.infos]
    for crops, owners, source in batch.crop_batches(batch_size):
        result = scorer.score(crops, source)
        for owner, crop_map, score in zip(
            owners, result.maps.cpu().numpy(), result.scores.tolist(), strict=True
        ):
            maps[owner].append(crop_map)
            scores[owner].append(score)
    return [
        ScoredImage(map=_whole(maps[index], *layout), score=max(scores[index]))
        for index, layout in enumerate(batch.layouts)
    ]


def _whole(crops: list[np.ndarray], origins, grid) -> np.ndarray:
    return crops[0] if grid is None else assemble(np.stack(crops), origins, grid)
