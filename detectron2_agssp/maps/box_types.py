"""Types of pseudo-boxes: groups of images whose anomalies look alike, found without labels.

With types, AGDP's box head learns to tell surfaces and defects apart, not only boxes from
background.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from detectron2_agssp.io.files import write_json
from detectron2_agssp.maps.geometry import InputGeometry
from detectron2_agssp.maps.image_stream import ImageLoader
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.scoring.base import resolve_device
from detectron2_agssp.scoring.features import build_patch_features

# Every cell counts a little: a map of zeros still has a surface.
BASE_WEIGHT = 0.01
KMEANS_ATTEMPTS = 5
KMEANS_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)


def find_types(
    cfg, image_root: str | Path, map_root: str | Path, *, progress: bool = True
) -> dict[str, int]:
    """Groups the images of a map folder, and writes the groups into its ``types_<number>.json``.

    An image is described by the mean and the standard deviation, weighted by its anomaly map, of
    its patch features; k-means (seeded by ``AGSSP.SCORER.SEED``) groups the descriptions, which
    take 4 KiB of memory an image.

    Args:
        cfg: ``AGSSP.BOXES.TYPES`` is the number of groups, at least 2; ``AGSSP.SCORER`` says which
            patch features they are found by, at which size.
        image_root: folder that the manifest's image paths are relative to.
        map_root: the map folder.

    Returns:
        Image, as in the manifest -> type, from 0.

    Raises:
        FileNotFoundError: no manifest.
        ValueError: fewer than 2 types, or than can be found: an image could not be read for each.
    """
    num_types = cfg.AGSSP.BOXES.TYPES
    if num_types < 2:
        raise ValueError(f"AGSSP.BOXES.TYPES must be at least 2 to find types, got {num_types}.")
    images, embeddings = _embed(cfg, image_root, MapStore(map_root), progress)
    if len(images) < num_types:
        raise ValueError(
            f"AGSSP.BOXES.TYPES is {num_types}, but {map_root} has maps of only {len(images)} "
            "readable images: lower it."
        )
    cv2.setRNGSeed(cfg.AGSSP.SCORER.SEED)
    _, groups, _ = cv2.kmeans(
        embeddings, num_types, None, KMEANS_CRITERIA, KMEANS_ATTEMPTS, cv2.KMEANS_PP_CENTERS
    )
    types = dict(zip(images, groups.ravel().tolist(), strict=True))
    write_json(types_path(map_root, num_types), types)
    return types


def types_path(map_root: str | Path, num_types: int) -> Path:
    """Where :func:`find_types` writes that number of types."""
    return Path(map_root) / f"types_{num_types}.json"


def read_types(map_root: str | Path, num_types: int) -> dict[str, int]:
    """The types that :func:`find_types` wrote.

    Raises:
        FileNotFoundError: there are none.
    """
    path = types_path(map_root, num_types)
    if not path.exists():
        raise FileNotFoundError(
            f"AGSSP.BOXES.TYPES is {num_types}, but {path} is missing: run tools/find_box_types.py "
            f"IMAGE_DIR {map_root} AGSSP.BOXES.TYPES {num_types}."
        )
    return json.loads(path.read_text())


def _embed(cfg, image_root, store: MapStore, progress: bool) -> tuple[list[str], np.ndarray]:
    """Images and their descriptions (N, 2 D) float32, standardised."""
    settings = cfg.AGSSP.SCORER
    device = resolve_device(settings.DEVICE)
    features = build_patch_features(cfg).to(device)
    loader = ImageLoader(
        image_root,
        geometry=InputGeometry("square", settings.IMAGE_SIZE),
        batch_size=settings.BATCH_SIZE,
        bit_depth=cfg.AGSSP.INPUT.BIT_DEPTH,
    )
    maps = {entry["image"]: store.root / entry["map"] for entry in store.entries()}
    images, rows = [], []
    with tqdm(total=len(maps), desc="types", unit="img", disable=not progress) as bar:
        for batch in loader(maps):
            for crops, indices, _ in batch.crop_batches(settings.BATCH_SIZE):
                cells = features(crops.to(device))
                names = [batch.infos[index]["image"] for index in indices]
                weights = [_cell_weights(maps[name], cells.shape[-2:]) for name in names]
                rows.append(_pool(cells, torch.stack(weights).to(device)).cpu())
                images.extend(names)
            bar.update(len(batch.infos) + len(batch.failures))
    if not images:
        return [], np.empty((0, 0), np.float32)
    embeddings = torch.cat(rows).numpy()
    spread = embeddings.std(0)
    embeddings = (embeddings - embeddings.mean(0)) / np.where(spread > 0, spread, 1)
    return images, np.ascontiguousarray(embeddings, np.float32)


def _cell_weights(path: Path, grid: tuple[int, int]) -> Tensor:
    """(h, w), sum 1."""
    anomaly_map = load_map(path).astype(np.float32)
    weights = cv2.resize(anomaly_map, tuple(grid)[::-1], interpolation=cv2.INTER_AREA)
    weights = torch.from_numpy(weights) + BASE_WEIGHT
    return weights / weights.sum()


def _pool(cells: Tensor, weights: Tensor) -> Tensor:
    """Features (N, D, h, w) and weights (N, h, w) -> weighted means and deviations (N, 2 D)."""
    mean = torch.einsum("ndhw,nhw->nd", cells, weights)
    square = torch.einsum("ndhw,nhw->nd", cells.square(), weights)
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return torch.cat([mean, deviation], dim=1)
