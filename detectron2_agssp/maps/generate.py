"""From a folder of images to a map folder: fit, calibrate, score; resumable at every step.

Images are decoded by worker processes and scored in fixed chunks of consecutive images. A chunk
with anything missing is scored again as a whole: a result may depend, in its last bits, on the
batch it was computed in, and a resumed run must end with the same bytes as an undisturbed one.
Shards take every n-th chunk, for the same reason.
"""

import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from detectron2_agssp.io.files import atomic_write, datasets_root, named_when_full, user_path
from detectron2_agssp.io.images import list_images
from detectron2_agssp.io.tar_shards import image_root_of
from detectron2_agssp.maps.calibration import Calibration
from detectron2_agssp.maps.calm import find_calm_windows
from detectron2_agssp.maps.fit import fit_scorer
from detectron2_agssp.maps.fitted_scorer import record_scorer, restore_scorer
from detectron2_agssp.maps.image_stream import chunks, is_same_file
from detectron2_agssp.maps.manifest import json_line, stays_inside
from detectron2_agssp.maps.score import ScoredImage, image_loader, score_batch
from detectron2_agssp.maps.store import MapStore, Shard, sees_nothing
from detectron2_agssp.maps.windows import Window
from detectron2_agssp.scoring.build import build_anomaly_scorer

logger = logging.getLogger(__name__)

FULL = "The maps made so far are whole: make room and run the same command again."


@dataclass
class GenerationSummary:
    """What a run did: counts of images, and the folder, whose ``skipped.jsonl`` says which images
    were skipped and why."""

    map_root: Path
    total: int = 0
    scored: int = 0
    kept: int = 0
    skipped: int = 0


def generate_anomaly_maps(
    cfg,
    image_root: str | Path,
    map_root: str | Path,
    *,
    fitted_by: str | Path | None = None,
    shard: Shard | None = None,
    fit_only: bool = False,
    progress: bool = True,
) -> GenerationSummary:
    """Makes an anomaly map for every image below ``image_root``.

    Unreadable images go to ``skipped.jsonl`` with the reason and do not stop the run. A folder
    that an earlier run left unfinished is completed, with that run's fitted scorer: images that
    were added or changed since get new maps, those that were deleted leave. Under
    ``detectron2.engine.launch``, the processes are shards, which the first of them merges.

    Args:
        cfg: a config with the ``AGSSP`` node; see ``AGSSP.SCORER`` and ``AGSSP.CALIBRATION``.
        image_root: folder of images, searched recursively; a URL of iopath's PathManager; or tar
            archives, ``shard-{000..099}.tar`` (see :mod:`~detectron2_agssp.io.tar_shards`).
        map_root: folder to write; see :class:`~detectron2_agssp.maps.store.MapStore`.
        fitted_by: another map folder, whose fitted scorer and calibration are used as they are,
            for example to score test images by what is normal in training.
        shard: (i, n) makes the i-th of n parts. Once all n are made, a run without it merges them.
        fit_only: stop when the scorer is fitted and calibrated; the next run makes the maps.
        progress: show progress bars.

    Raises:
        FileNotFoundError: ``image_root`` does not exist, or ``fitted_by`` has no scorer.
        ValueError: it holds no image, or no readable one; or ``map_root`` was written with other
            settings (the difference is shown).
        OSError: another run is writing to ``map_root``, or the disk is full (the folder stays
            valid; the next run goes on).
    """
    size, rank = comm.get_world_size(), comm.get_rank()
    if size > 1:
        if shard is not None:
            raise ValueError("Either --shard or several processes, not both.")
        shard = (rank, size)
    store = MapStore(map_root, shard)
    with store.lock(), named_when_full(store.root, FULL):
        generator = MapGenerator(cfg, image_root, store, progress and rank == 0)
        summary = generator.run(fitted_by, fit_only)
    if size > 1:
        comm.synchronize()
        if rank == 0:
            whole = MapStore(map_root)
            whole.repair()
            _warn_of_gone(whole.merge(generator.images))
        parts = comm.gather(summary)
        if rank == 0:
            summary.scored = sum(part.scored for part in parts)
            summary.skipped = sum(part.skipped for part in parts)
    return summary


class MapGenerator:
    """One run over one folder."""

    def __init__(self, cfg, image_root: str | Path, store: MapStore, progress: bool):
        self.image_root = absolute_root(image_root)
        self.cfg, self.store, self.progress = cfg, store, progress
        self.images = list(list_images(self.image_root))
        if not self.images:
            raise ValueError(
                f"{self.image_root} holds no images (searched recursively, by suffix)."
            )
        self.summary = GenerationSummary(map_root=store.root, total=len(self.images))
        self.scorer = build_anomaly_scorer(cfg)
        self.loader = image_loader(cfg, self.scorer, self.image_root)

    def run(self, fitted_by: str | Path | None = None, fit_only: bool = False) -> GenerationSummary:
        if self.store.repair():
            logger.warning("Repaired %s: its last line was cut short.", self.store.manifest_path)
        if self.store.shard is None:
            self.store.merge()
        with self.store.fitting_lock():
            calibration = self._calibration(fitted_by)
        if fit_only:
            return self.summary
        done = self._done()
        self.summary.kept = len(done)
        self.store.append([])  # an empty manifest, should no image be usable
        failed = []
        with atomic_write(self.store.skipped_path, temporary_root=self.store.root) as skipped:
            for entries, failures in self._score(calibration, done):
                self.store.append(entries)
                skipped.writelines(map(json_line, failures))
                failed.extend(failure["image"] for failure in failures)
                self.summary.scored += len(entries)
                self.summary.skipped += len(failures)
        if self.store.shard is None:
            _warn_of_gone(self.store.merge(self.images, failed))
        return self.summary

    def _done(self) -> set[str]:
        """The images that have a map, and have not changed since it was made."""
        recorded, done = self.store.recorded(), set()
        for image in self.images:
            entry = recorded.get(image)
            if entry is None or not (self.store.root / entry["map"]).is_file():
                continue
            if is_same_file(os.path.join(self.image_root, image), entry):
                done.add(image)
        return done

    def _calibration(self, fitted_by: str | Path | None) -> Calibration:
        cfg, scorer, store = self.cfg, self.scorer, self.store
        calibration = restore_scorer(cfg, scorer, store, self.image_root)
        if calibration is not None:
            return calibration
        windows: list[Window] = []
        if fitted_by is None:
            windows = find_calm_windows(cfg, scorer, self.image_root, self.progress)
            total, progress = self.summary.total, self.progress
            calibration = fit_scorer(cfg, scorer, self.loader, total, progress, windows)
        else:
            calibration = restore_scorer(cfg, scorer, MapStore(fitted_by))
            if calibration is None:
                raise FileNotFoundError(f"{fitted_by} has no scorer.json: it is not a map folder.")
        record_scorer(cfg, scorer, calibration, store, self.image_root, windows)
        return calibration

    def _score(self, calibration: Calibration, done: set[str]) -> Iterator[tuple[list, list]]:
        """Yields the manifest entries and the failures of each chunk that was not finished."""
        index, count = self.store.shard or (0, 1)

        def unfinished() -> Iterator[str]:
            for number, chunk in enumerate(chunks(self.images, self.loader.chunk_size)):
                if number % count == index:
                    if any(path not in done for path in chunk):
                        yield from chunk
                    else:
                        bar.update(len(chunk))

        total = self.summary.total // count
        with tqdm(total=total, desc="score", unit="img", disable=not self.progress) as bar:
            for batch in self.loader(unfinished()):
                scored = score_batch(self.scorer, batch, self.loader.batch_size)
                entries = []
                for info, result in zip(batch.infos, scored, strict=True):
                    if info["image"] not in done:
                        reason = self._write(info, result, calibration, entries)
                        if reason:
                            batch.failures.append({"image": info["image"], "reason": reason})
                for failure in batch.failures:
                    logger.warning("Skipped %s: %s", failure["image"], failure["reason"])
                yield entries, batch.failures
                bar.update(len(batch.infos) + len(batch.failures))

    def _write(
        self, info: dict, result: ScoredImage, calibration: Calibration, entries: list[dict]
    ) -> str:
        """Stores one image's map and adds its manifest entry; or says why not."""
        image, calibration = info["image"], calibration.of(info["source"])
        if not stays_inside(image):
            return "its name has '..' between slashes"
        if not np.isfinite(result.map).all():
            return "the scorer's map is not finite"
        calibrated = calibration(result.map).astype(np.float16)
        # Before clipping: what is far above the calibration is no flat map, though stored as one.
        is_flat = np.ptp(result.map) <= self.scorer.noise * max(1, np.abs(result.map).max())
        if is_flat and calibrated.max() < 1e-3:
            calibrated = np.zeros_like(calibrated)
        if (is_flat and calibrated.any()) or sees_nothing(calibrated):
            return f"the scorer's map is the same everywhere ({calibrated.max():.3g})"
        try:
            self.store.write_map(image, calibrated)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
                raise
            return f"its map cannot be stored under its name ({error.strerror})"
        score = round(float(calibration.unclipped(result.score)), 6)
        entry = {"image": image, "map": self.store.map_name(image)}
        entries.append(entry | {key: info[key] for key in ("height", "width", "source")})
        state = {key: info[key] for key in ("bytes", "modified", "digest") if key in info}
        entries[-1] |= {"score": score} | state
        return ""


def _warn_of_gone(count: int) -> None:
    if count:
        logger.warning("%d images were deleted or cannot be scored any more: they left.", count)


def absolute_root(image_root: str | Path) -> str:
    """An image folder as ``scorer.json`` has it: absolute; a URL stays as it is, archives become
    one."""
    root = image_root_of(image_root)
    return root if "://" in root else str(user_path(root).resolve())


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
        f'"NAME", "{absolute_root(image_root)}", "{map_root}").'
    )
