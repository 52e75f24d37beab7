"""From a folder of images to a map folder: fit, calibrate, score; resumable at every step.

Images are decoded by worker processes and scored in fixed chunks of consecutive images. A chunk
with anything missing is scored again as a whole: a result may depend, in its last bits, on the
batch it was computed in, and a resumed run must end with the same bytes as an undisturbed one.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from detectron2_agssp.data.image_io import list_images
from detectron2_agssp.maps.calibration import Calibration
from detectron2_agssp.maps.fitted_scorer import record_scorer, restore_scorer
from detectron2_agssp.maps.image_stream import DecodedBatch, ImageLoader, chunks, sample_paths
from detectron2_agssp.maps.store import MapStore, PathSet, sees_nothing
from detectron2_agssp.scoring.base import AnomalyScores
from detectron2_agssp.scoring.build import build_anomaly_scorer
from detectron2_agssp.utils.files import atomic_write, datasets_root

logger = logging.getLogger(__name__)


@dataclass
class GenerationSummary:
    """What a run did: counts of images, and the folder."""

    map_root: Path
    total: int = 0
    scored: int = 0
    kept: int = 0
    skipped: list[dict] = field(default_factory=list)


def generate_anomaly_maps(
    cfg,
    image_root: str | Path,
    map_root: str | Path,
    *,
    fitted_by: str | Path | None = None,
    progress: bool = True,
) -> GenerationSummary:
    """Makes an anomaly map for every image below ``image_root``.

    Unreadable images go to ``skipped.jsonl`` with the reason and do not stop the run. A folder
    that an earlier run left unfinished is completed, with that run's fitted scorer.

    Args:
        cfg: a config with the ``AGSSP`` node; see ``AGSSP.SCORER`` and ``AGSSP.CALIBRATION``.
        image_root: folder of images, searched recursively.
        map_root: folder to write; see :class:`~detectron2_agssp.maps.store.MapStore`.
        fitted_by: another map folder, whose fitted scorer and calibration are used as they are,
            for example to score test images by what is normal in training.
        progress: show progress bars.

    Raises:
        FileNotFoundError: ``image_root`` does not exist, or ``fitted_by`` has no scorer.
        ValueError: it holds no image, or no readable one; or ``map_root`` was written with other
            settings (the difference is shown).
    """
    image_root = Path(image_root).resolve()
    store = MapStore(map_root)
    total = sum(1 for _ in list_images(image_root))
    if total == 0:
        raise ValueError(f"{image_root} holds no images (searched recursively, by suffix).")
    if store.repair():
        logger.warning("Repaired %s: its last line was cut short.", store.manifest_path)

    scorer = build_anomaly_scorer(cfg)
    loader = ImageLoader(
        image_root,
        image_size=scorer.image_size,
        batch_size=cfg.AGSSP.SCORER.BATCH_SIZE,
        num_workers=cfg.AGSSP.SCORER.NUM_WORKERS,
        bit_depth=cfg.AGSSP.INPUT.BIT_DEPTH,
    )
    calibration = restore_scorer(cfg, scorer, store, image_root)
    if calibration is None and fitted_by is not None:
        calibration = restore_scorer(cfg, scorer, MapStore(fitted_by))
        if calibration is None:
            raise FileNotFoundError(f"{fitted_by} has no scorer.json: it is not a map folder.")
        record_scorer(cfg, scorer, calibration, store, image_root)
    if calibration is None:
        calibration = _fit(cfg, scorer, store, image_root, loader, total, progress)
    return _score_all(scorer, calibration, store, image_root, loader, total, progress)


def _fit(cfg, scorer, store, image_root, loader, total, progress) -> Calibration:
    settings = cfg.AGSSP.SCORER
    if settings.FIT_IMAGES < 0 or cfg.AGSSP.CALIBRATION.MAX_IMAGES < 1:
        raise ValueError(
            "AGSSP.SCORER.FIT_IMAGES must be 0 (all) or more and AGSSP.CALIBRATION.MAX_IMAGES 1 or "
            f"more, got {settings.FIT_IMAGES} and {cfg.AGSSP.CALIBRATION.MAX_IMAGES}."
        )
    paths: Iterable[str] = list_images(image_root)
    count = total
    if 0 < settings.FIT_IMAGES < total:
        paths = sample_paths(paths, settings.FIT_IMAGES, settings.SEED)
        count = settings.FIT_IMAGES
    with tqdm(total=count, desc="fit", unit="img", disable=not progress) as bar:
        scorer.fit(_float_batches(loader(paths), bar))

    sampled = sample_paths(list_images(image_root), cfg.AGSSP.CALIBRATION.MAX_IMAGES, settings.SEED)
    with tqdm(total=len(sampled), desc="calibrate", unit="img", disable=not progress) as bar:
        raw = [scorer(images).maps.cpu() for images in _float_batches(loader(sampled), bar)]
    calibration = Calibration.from_samples(
        torch.cat([maps.flatten() for maps in raw]).numpy() if raw else np.zeros(0),
        cfg.AGSSP.CALIBRATION.LOW_QUANTILE,
        cfg.AGSSP.CALIBRATION.HIGH_QUANTILE,
    )
    record_scorer(cfg, scorer, calibration, store, image_root)
    return calibration


def _float_batches(batches: Iterable[DecodedBatch], bar: tqdm) -> Iterator[torch.Tensor]:
    num_read, failures = 0, []
    for batch in batches:
        bar.update(len(batch.infos) + len(batch.failures))
        failures.extend(batch.failures[: 3 - len(failures)])
        if batch.infos:
            num_read += len(batch.infos)
            yield batch.images.float()
    if num_read == 0:
        raise ValueError(f"None of the images could be read. The first: {failures}")


def _score_all(scorer, calibration, store, image_root, loader, total, progress):
    summary = GenerationSummary(map_root=store.root, total=total)
    done = store.finished()
    summary.kept = len(done)
    store.append([])  # an empty manifest, should no image be usable

    def unfinished() -> Iterator[str]:
        for chunk in chunks(list_images(image_root), loader.batch_size):
            if any(path not in done for path in chunk):
                yield from chunk
            else:
                bar.update(len(chunk))

    with tqdm(total=total, desc="score", unit="img", disable=not progress) as bar:
        for batch in loader(unfinished()):
            if batch.infos:
                scores = scorer(batch.images.float())
                summary.scored += _write(store, done, calibration, image_root, batch, scores)
            for failure in batch.failures:
                logger.warning("Skipped %s: %s", failure["image"], failure["reason"])
            summary.skipped.extend(batch.failures)
            bar.update(len(batch.infos) + len(batch.failures))
    with atomic_write(store.root / "skipped.jsonl") as file:
        file.writelines(json.dumps(failure) + "\n" for failure in summary.skipped)
    store.sort_manifest()
    return summary


def _write(
    store: MapStore,
    done: PathSet,
    calibration: Calibration,
    image_root: Path,
    batch: DecodedBatch,
    scores: AnomalyScores,
) -> int:
    """Stores the maps of one batch that were not finished; returns how many."""
    raw_maps, raw_scores = scores.maps.cpu().numpy(), scores.scores.cpu().numpy()
    entries = []
    for info, raw_map, raw_score in zip(batch.infos, raw_maps, raw_scores, strict=True):
        image = info["image"]
        if image in done:
            continue
        if not np.isfinite(raw_map).all():
            batch.failures.append({"image": image, "reason": "the scorer's map is not finite"})
            continue
        calibrated = calibration(raw_map).astype(np.float16)
        if sees_nothing(calibrated):
            reason = f"the scorer's map is the same everywhere ({calibrated.max():.3g})"
            batch.failures.append({"image": image, "reason": reason})
            continue
        store.write_map(image, calibrated)
        entries.append(
            {
                "image": image,
                "map": store.map_name(image),
                "height": info["height"],
                "width": info["width"],
                "source": image.split("/")[0] if "/" in image else image_root.name,
                "score": round(float(calibration.unclipped(raw_score)), 6),
            }
        )
    store.append(entries)
    return len(entries)


def registration_hint(image_root: str | Path, map_root: str | Path) -> str:
    """What to write into a config to train on a map folder."""
    map_root = Path(map_root).resolve()
    root = datasets_root().resolve()
    if map_root.parent == root / "agssp":
        return (
            f"Registered on import: DATASETS.TRAIN \"('agssp_{map_root.name}',)\" for AGBP, "
            f"\"('agssp_{map_root.name}_boxes',)\" for AGDP."
        )
    return (
        "To train on it, move it to $DETECTRON2_DATASETS/agssp/NAME (registered on import as "
        "agssp_NAME and agssp_NAME_boxes), or call detectron2_agssp.data.register_unlabeled("
        f'"NAME", "{Path(image_root).resolve()}", "{map_root}").'
    )
