"""The images to label next, with guessed boxes to start from."""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.config import settings_of
from detectron2_agssp.data.formats.voc import write_voc
from detectron2_agssp.data.formats.yolo import write_yolo
from detectron2_agssp.data.near_duplicates import THUMBNAIL, thumbnail
from detectron2_agssp.inference import next_progress
from detectron2_agssp.inference.detector import Detections, Detector
from detectron2_agssp.inference.inputs import ImageFiles, open_inputs
from detectron2_agssp.inference.next_choice import choose, distances_to, ranks
from detectron2_agssp.inference.next_choice import uncertainty as uncertainty_of
from detectron2_agssp.inference.next_choice import unexplained as unexplained_of
from detectron2_agssp.inference.next_looks import Look, look_of_detector, look_of_scorer
from detectron2_agssp.inference.next_progress import LookedAt, Progress
from detectron2_agssp.inference.predict import what_decides
from detectron2_agssp.inference.run import open_run
from detectron2_agssp.inference.store import as_entry, coco_of
from detectron2_agssp.io.coco import write_coco
from detectron2_agssp.io.config_reading import read_config
from detectron2_agssp.io.files import (
    TEMPORARY_PATTERN,
    atomic_write,
    file_digest,
    named_when_full,
    only_run,
    user_path,
)
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.image_stream import file_state, is_same_file, source_of
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.reports.next_report import NextImage, write_next_report

logger = logging.getLogger(__name__)

NO_RUN = "-"
# Detections of a lower score say nothing.
_LOWEST = 0.05
# Of a run without a stored one.
_THRESHOLD = 0.5
_MAX_KNOWN = 2000
_CLASS = "defect"
FULL = "What was looked at is kept: make room and run the same command again."


def next_images(
    run: str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    count: int,
    maps: str | Path | None = None,
    per_source: bool = False,
    tile: int = 0,
    options: Sequence[str] = (),
) -> list[str]:
    """Chooses the images to label next, writes their paths, a page that shows them, and the guessed
    boxes as COCO, YOLO and Pascal VOC. Where a call was interrupted, the same call goes on.

    An image promises much where the detector is uncertain of a box, where its anomaly map has mass
    that no detection explains, and where it is unlike the labelled images: the mean of its ranks in
    these. Of promising ones those are taken that differ from each other and from labelled ones.

    Args:
        run: as of :func:`~detectron2_agssp.predict`; "-": there is none yet, and maps and features
            decide alone.
        images: a folder (searched recursively), a .txt file or a list of paths.
        output: .txt file with a path per line. ``NAME_guesses`` beside it gets ``report.html``,
            ``annotations.json``, ``yolo/`` and ``voc/``.
        count: how many.
        maps: map folder of the same images.
        per_source: so many of each source, an image's first folder.
        tile: as of :func:`~detectron2_agssp.predict`; of the detector, not of the maps.
        options: KEY VALUE pairs that override the run's config; without a run, ``AGSSP.SCORER``.

    Returns:
        the names of the images, the most promising first.

    Raises:
        FileNotFoundError, ValueError: as :func:`~detectron2_agssp.predict`; there is no map of any
            image; every image is labelled.
        FileExistsError: guesses of an earlier choice are there.
        OSError: another process is writing them.
    """
    if count < 1:
        raise ValueError(f"--count is how many images to choose, at least 1, got {count}.")
    output = user_path(output)
    folder = output.with_name(f"{output.stem}_guesses")
    with only_run(folder):
        # Guesses beside it are of a run that was cut short while it wrote them.
        if any(folder.iterdir()) and not (folder / next_progress.NAME).exists():
            raise FileExistsError(
                f"{folder} holds guesses already, perhaps with corrections: choose another name "
                f"than {output.name}, or move the folder away."
            )
        guesser = _guesser(run, options, maps, tile)
        inputs = open_inputs(images, guesser.reader)
        if not isinstance(inputs, ImageFiles):
            raise ValueError(f"{images} is a video: save its frames as images, to be labelled.")
        guesser.check_maps(inputs)
        progress = Progress(folder, guesser.settings)
        with named_when_full(folder, FULL):
            known = _look_at_known(guesser)
            pool = guesser.look_over(inputs, progress)
            chosen, promise, distances = _choose(pool, known, count, per_source)
            shown = [
                NextImage(
                    entry=pool[index].entry,
                    path=inputs.paths[pool[index].name],
                    map_path=guesser.map_path(pool[index].name),
                    promise=float(promise[index]),
                    uncertainty=pool[index].uncertainty,
                    unexplained=pool[index].unexplained,
                    distance=float(distances[index]),
                )
                for index in chosen
            ]
            _write_guesses(folder, shown, inputs, guesser.classes)
            values = {"run": str(run), "looked at": inputs.place, "images": len(pool)}
            values |= {"labelled before": len(guesser.labelled), "chosen": len(chosen)}
            page = folder / "report.html"
            write_next_report(page, shown, guesser.classes, values=values, reader=guesser.reader)
            with atomic_write(output) as file:
                file.writelines(f"{os.path.abspath(image.path)}\n" for image in shown)
            # Last: it says that all is there.
            progress.remove()
    return [pool[index].name for index in chosen]


@dataclass
class _Guesser:
    """What boxes are guessed by, and how images look; ``detector`` None: by maps alone.
    ``settings``: what all of it depends on."""

    reader: ImageReader
    look: Look
    classes: Sequence[str]
    labelled: list[str]
    store: MapStore | None
    rule: BoxRule | None
    detector: Detector | None
    threshold: float
    settings: dict

    def __post_init__(self):
        self.recorded = {} if self.store is None else self.store.recorded()

    def check_maps(self, inputs: ImageFiles) -> None:
        if self.store is not None and not self.recorded.keys() & inputs.paths.keys():
            raise ValueError(
                f"{self.store.root} has no map of any of these images, such as "
                f"{next(iter(inputs.paths))}: make it of the same folder."
            )

    def map_path(self, name: str) -> Path | None:
        if self.store is None or name not in self.recorded:
            return None
        return self.store.root / self.recorded[name]["map"]

    def look_over(self, inputs: ImageFiles, progress: Progress) -> list[LookedAt]:
        already = {os.path.realpath(path) for path in self.labelled}
        before = progress.recorded()
        pool = []
        for name, path in tqdm(inputs.paths.items(), desc="images", unit="img"):
            if os.path.realpath(path) in already:
                continue
            looked = before.get(name)
            if looked is None or not self._is_unchanged(looked, path):
                try:
                    state = file_state(path)
                    image = self.reader(path)
                except (OSError, ValueError) as error:
                    logger.warning("Skipped %s: %s", name, error)
                    continue
                looked = self._look_at(name, image, state)
                progress.add(looked)
            pool.append(looked)
        if not pool:
            raise ValueError(
                f"None of the {len(inputs)} images of {inputs.place or 'the list'} is left to "
                "label: all are labelled, or cannot be read."
            )
        return pool

    def _is_unchanged(self, looked: LookedAt, path: str) -> bool:
        same = looked.state.get("map") == self._map_state(looked.name)
        return same and is_same_file(path, looked.state)

    def _map_state(self, name: str) -> str:
        path = self.map_path(name)
        return "" if path is None else file_digest(path)

    def _look_at(self, name: str, image: np.ndarray, state: dict) -> LookedAt:
        size = image.shape[:2]
        map_path = self.map_path(name)
        anomaly_map = None if map_path is None else load_map(map_path)
        if self.detector is not None:
            found = self.detector([image])[0]
            uncertainty = uncertainty_of(np.asarray(found["scores"]), self.threshold)
            found = _counting(found, self.threshold)
            boxes = np.asarray(found["boxes"])
        else:
            uncertainty = 0.0
            found = self._of_map(anomaly_map, size, name)
            # Without a detector all that is odd is unexplained.
            boxes = np.zeros((0, 4))
        return LookedAt(
            entry=as_entry(name, size, found, {}),
            vector=self.look(image),
            thumbnail=thumbnail(image),
            uncertainty=float(uncertainty),
            unexplained=(
                0.0 if anomaly_map is None else float(unexplained_of(anomaly_map, boxes, *size))
            ),
            state={**state, "map": self._map_state(name)},
        )

    def _of_map(
        self, anomaly_map: np.ndarray | None, size: tuple[int, int], name: str
    ) -> Detections:
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        if self.rule is not None and anomaly_map is not None:
            boxes, scores = self.rule(anomaly_map, *size, source=self.recorded[name]["source"])
        return {
            "boxes": torch.from_numpy(np.array(boxes)),
            "scores": torch.from_numpy(np.array(scores)),
            "classes": torch.zeros(len(boxes), dtype=torch.int64),
        }


def _guesser(
    run: str | Path, options: Sequence[str], maps: str | Path | None, tile: int
) -> _Guesser:
    store = None if maps is None else MapStore(maps)
    if str(run) == NO_RUN:
        if tile:
            raise ValueError(
                f"Tiles (--tile {tile}) are for a detector, and there is none yet. Maps of large "
                "images are made in tiles by agssp maps: AGSSP.SCORER.RESIZE tile."
            )
        cfg = read_config("", options)
        rule = None if maps is None else BoxRule.from_config(cfg, maps)
        reader, look = ImageReader(cfg), look_of_scorer(cfg)
        settings = {"run": NO_RUN, "maps": str(maps), "config": settings_of(cfg)}
        return _Guesser(reader, look, (_CLASS,), [], store, rule, None, _THRESHOLD, settings)
    opened = open_run(run, options)
    detector = Detector(opened, threshold=_LOWEST, tile=tile)
    threshold = min(max(opened.threshold or _THRESHOLD, _LOWEST), 1 - _LOWEST)
    reader, look = ImageReader(opened.cfg), look_of_detector(opened.cfg, detector.model)
    labelled = _labelled(opened.cfg)
    settings = {"maps": str(maps), "threshold": threshold, "tile": tile, **what_decides(opened)}
    return _Guesser(
        reader, look, opened.classes, labelled, store, None, detector, threshold, settings
    )


def _write_guesses(
    folder: Path, images: Sequence[NextImage], inputs: ImageFiles, classes: Sequence[str]
) -> None:
    """COCO, YOLO and Pascal VOC; file names are relative to the folder of the images, of a list to
    the root of the file system."""
    coco = coco_of([image.entry for image in images], classes)
    root = inputs.place
    if not os.path.isdir(root):
        root = os.path.sep
        for own, image in zip(coco["images"], images, strict=True):
            own["file_name"] = os.path.relpath(os.path.abspath(image.path), root)
    # Of a run that was cut short.
    for left in ("yolo", "voc"):
        shutil.rmtree(folder / left, ignore_errors=True)
    for temporary in folder.glob(TEMPORARY_PATTERN):
        temporary.unlink()
    write_coco(folder / "annotations.json", coco)
    write_yolo(coco, folder / "yolo", root)
    write_voc(coco, folder / "voc")


def _labelled(cfg: CfgNode) -> list[str]:
    """The files of the run's labelled images; none where its data set is not here."""
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    if name not in DatasetCatalog:
        logger.warning(
            "The labelled images of the run (%s) are not registered here: what is like them is not "
            "told apart.",
            name or "DATASETS.TRAIN",
        )
        return []
    return [entry["file_name"] for entry in DatasetCatalog.get(name)]


def _look_at_known(guesser: _Guesser) -> tuple[np.ndarray, np.ndarray]:
    vectors, thumbnails, paths = [], [], guesser.labelled
    step = max(1, -(-len(paths) // _MAX_KNOWN))
    for path in tqdm(paths[::step], desc="labelled", unit="img", disable=not paths):
        try:
            image = guesser.reader(path)
        except (OSError, ValueError) as error:
            logger.warning("Skipped %s: %s", path, error)
            continue
        vectors.append(guesser.look(image))
        thumbnails.append(thumbnail(image))
    if not vectors:
        return np.zeros(0, np.float32), np.zeros((0, THUMBNAIL**2), np.float32)
    return np.stack(vectors), np.stack(thumbnails)


def _counting(found: Detections, threshold: float) -> Detections:
    kept = found["scores"] >= threshold
    return {key: found[key][kept] for key in ("boxes", "scores", "classes")}


def _choose(
    pool: Sequence[LookedAt], known: tuple[np.ndarray, np.ndarray], count: int, per_source: bool
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Indices, and of all images promise and distance to the nearest labelled one."""
    vectors = np.stack([looked.vector for looked in pool])
    thumbnails = np.stack([looked.thumbnail for looked in pool])
    known_vectors, known_thumbnails = known
    known_vectors = known_vectors.reshape(-1, vectors.shape[1])
    distances = distances_to(vectors, known_vectors)
    signs = [
        [looked.uncertainty for looked in pool],
        [looked.unexplained for looked in pool],
        np.where(np.isfinite(distances), distances, 0),
    ]
    # What is the same everywhere says nothing.
    telling = [ranks(sign) for sign in signs if np.ptp(sign) > 0]
    promise = np.mean(telling, axis=0) if telling else np.ones(len(vectors))
    groups: dict[str, list[int]] = defaultdict(list)
    for index, looked in enumerate(pool):
        groups[source_of(looked.name, "") if per_source else ""].append(index)
    chosen: list[int] = []
    for _, members in sorted(groups.items()):
        own = choose(
            promise[members],
            vectors[members],
            thumbnails[members],
            count,
            known_vectors=np.concatenate([known_vectors, vectors[chosen]]),
            known_thumbnails=np.concatenate([known_thumbnails, thumbnails[chosen]]),
        )
        chosen += [members[index] for index in own]
    return chosen, promise, distances
