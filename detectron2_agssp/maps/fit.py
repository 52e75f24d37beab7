"""Fitting a scorer to a folder of images, and calibrating it, in streaming passes."""

import fnmatch
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from detectron2_agssp.io.corpus_file import is_corpus
from detectron2_agssp.io.images import ImageReader, list_images
from detectron2_agssp.io.tar_shards import PREFIX as TAR_PREFIX
from detectron2_agssp.maps.calibration import Calibration, border_excess, without_border
from detectron2_agssp.maps.image_stream import (
    ImageLoader,
    sample_paths,
    sample_paths_by_source,
)
from detectron2_agssp.maps.score import image_loader
from detectron2_agssp.maps.windows import Window, WindowReader
from detectron2_agssp.scoring.base import AnomalyScorer, FitStage


def fit_scorer(
    cfg,
    scorer: AnomalyScorer,
    loader: ImageLoader,
    total: int,
    progress: bool = True,
    windows: Sequence[Window] = (),
) -> Calibration:
    """Fits ``scorer`` as :func:`fit_stages` does, and calibrates it on a sample.

    Raises:
        ValueError: settings out of range, no normal images for a scorer that needs them, or no
            image that could be read.
    """
    settings = cfg.AGSSP.SCORER
    if settings.FIT_IMAGES < 0 or cfg.AGSSP.CALIBRATION.MAX_IMAGES < 1:
        raise ValueError(
            "AGSSP.SCORER.FIT_IMAGES must be 0 (all) or more and AGSSP.CALIBRATION.MAX_IMAGES 1 or "
            f"more, got {settings.FIT_IMAGES} and {cfg.AGSSP.CALIBRATION.MAX_IMAGES}."
        )
    fit_stages(cfg, scorer, loader, total, progress, windows)
    return _calibrate(cfg, scorer, loader, progress)


def fit_stages(
    cfg,
    scorer: AnomalyScorer,
    loader: ImageLoader,
    total: int,
    progress: bool = True,
    windows: Sequence[Window] = (),
) -> None:
    """Fits ``scorer`` on its ``fit_sample`` of the loader's folder.

    Args:
        cfg: its ``AGSSP.SCORER`` is ``scorer``'s.
        scorer: what is fitted.
        loader: how the scorer's images are read.
        total: images in the folder.
        progress: show progress bars.
        windows: of images, normal ones beside those that ``cfg`` names.

    Raises:
        ValueError: no normal images for a scorer that needs them, or no image that could be read.
    """
    reading = _Reading(loader)
    try:
        for stage in scorer.fit_stages():
            _fit_stage(cfg, scorer, stage, reading, total, progress, windows)
    except ValueError as error:
        # A scorer that was given no images cannot know why.
        if reading.num_read == 0 and reading.failures:
            raise _nothing_readable(reading.failures) from error
        raise


def _fit_stage(
    cfg, scorer, stage: FitStage, reading: "_Reading", total: int, progress, windows
) -> None:
    settings, root = cfg.AGSSP.SCORER, reading.loader.image_root
    if stage.sample == "per_source":
        count = scorer.images_per_source
        sampled = sample_paths_by_source(list_images(root), count, settings.SEED, root)
        with _bar("fit", sum(map(len, sampled.values())), progress) as bar:
            stage.fit({source: reading.crops(paths, bar) for source, paths in sampled.items()})
    elif stage.sample == "normal":
        paths = normal_images(cfg, root)
        with _bar("fit", len(paths) + len(windows), progress) as bar:
            batches = reading.crops(paths, bar)
            if windows:
                reader = WindowReader(ImageReader(cfg), root, windows)
                cut = image_loader(cfg, scorer, root, reader)
                names = [window.image for window in windows]
                batches = itertools.chain(batches, reading.crops(names, bar, cut))
            stage.fit(batches)
    elif stage.sample == "unlabeled":
        paths, count = list_images(root), total
        if 0 < settings.FIT_IMAGES < total:
            count = settings.FIT_IMAGES
            paths = sample_paths(paths, count, settings.SEED)
        with _bar("fit", count, progress) as bar:
            stage.fit(reading.crops(paths, bar))


def _calibrate(cfg, scorer, loader, progress) -> Calibration:
    settings = cfg.AGSSP.CALIBRATION
    sampled = sample_paths(
        list_images(loader.image_root), settings.MAX_IMAGES, cfg.AGSSP.SCORER.SEED
    )
    raw = []
    reading = _Reading(loader)
    with _bar("calibrate", len(sampled), progress) as bar:
        for crops, source in reading.crops_and_sources(sampled, bar):
            raw.append(scorer.score(crops, source).maps.cpu().numpy())
    if not raw:
        raise _nothing_readable(reading.failures)
    border = border_excess(raw) if settings.BORDER else ()
    return Calibration.from_samples(
        np.concatenate([without_border(maps, border).ravel() for maps in raw]),
        settings.LOW_QUANTILE,
        settings.HIGH_QUANTILE,
        scorer.noise,
        border,
    )


@dataclass
class _Reading:
    """Crops of images, and how the reading went: the first failures, and how many were read."""

    loader: ImageLoader
    num_read: int = 0
    failures: list[dict] = field(default_factory=list)

    def crops(
        self, paths: Iterable[str], bar: tqdm, loader: ImageLoader | None = None
    ) -> Iterator[torch.Tensor]:
        return (crops for crops, _ in self.crops_and_sources(paths, bar, loader))

    def crops_and_sources(
        self, paths: Iterable[str], bar: tqdm, loader: ImageLoader | None = None
    ) -> Iterator[tuple[torch.Tensor, str]]:
        for batch in (loader or self.loader)(paths):
            bar.update(len(batch.infos) + len(batch.failures))
            self.failures.extend(batch.failures[: 3 - len(self.failures)])
            self.num_read += len(batch.infos)
            for crops, _, source in batch.crop_batches(self.loader.batch_size):
                yield crops, source


def _nothing_readable(failures: list[dict]) -> ValueError:
    return ValueError(f"None of the images could be read. The first: {failures}")


def _bar(description: str, total: int, progress: bool) -> tqdm:
    return tqdm(total=total, desc=description, unit="img", disable=not progress)


def normal_images(cfg, image_root: str) -> list[str]:
    """The images that ``AGSSP.SCORER.NORMAL_IMAGES`` and ``NORMAL_SAMPLE`` name, as paths relative
    to ``image_root`` or absolute ones.

    An entry of NORMAL_IMAGES is an image, a folder of images (searched recursively), or a pattern
    in which ``*`` stands for anything (folders too), relative to the image folder or absolute; or
    a ``.txt`` file of such entries, one a line, itself below the image folder or relative to the
    working folder.

    Returns:
        each image once, in the order of the entries, then of the sample.

    Raises:
        ValueError: neither key names any and CALM_WINDOWS asks for none, an entry matches no image,
            or a list does not exist.
    """
    settings = cfg.AGSSP.SCORER
    entries = list(_expanded(settings.NORMAL_IMAGES, image_root))
    if not entries and settings.NORMAL_SAMPLE < 1 and settings.CALM_WINDOWS < 1:
        raise ValueError(
            f"The scorer {settings.NAME!r} needs a few normal images, but "
            f"AGSSP.SCORER.NORMAL_IMAGES is {tuple(settings.NORMAL_IMAGES)} and NORMAL_SAMPLE "
            f"{settings.NORMAL_SAMPLE}. List some in NORMAL_IMAGES (paths, folders or patterns "
            "below the image folder, or a .txt file of them), or set NORMAL_SAMPLE to take so many "
            "at random, where nearly all images are normal, or CALM_WINDOWS to take so many calm "
            "parts of images, where most have defects; or choose AGSSP.SCORER.NAME mahalanobis or "
            "mutual, which need none."
        )
    chosen: dict[str, None] = {}
    for entry in entries:
        matches = _matches(entry, image_root)
        if not matches:
            raise ValueError(
                f"AGSSP.SCORER.NORMAL_IMAGES has {entry!r}, which matches no image in {image_root}."
            )
        chosen.update(dict.fromkeys(_relative(match, image_root) for match in matches))
    if settings.NORMAL_SAMPLE > 0:
        sample = sample_paths(list_images(image_root), settings.NORMAL_SAMPLE, settings.SEED)
        chosen.update(dict.fromkeys(sample))
    return list(chosen)


def _expanded(entries: Iterable[str], image_root: str) -> Iterator[str]:
    for entry in entries:
        if not entry.endswith(".txt"):
            yield entry
            continue
        places = (os.path.join(image_root, entry), entry)
        place = next(filter(os.path.isfile, places), None)
        if place is None:
            raise ValueError(
                f"AGSSP.SCORER.NORMAL_IMAGES names {entry!r}, which exists neither in {image_root} "
                "nor in the working folder."
            )
        # "-sig": Windows' editors put a mark at the beginning.
        with open(place, encoding="utf-8-sig") as file:
            yield from (line.strip() for line in file if line.strip())


def _matches(entry: str, image_root: str) -> list[str]:
    path = os.path.join(image_root, entry)
    in_archives = image_root.startswith(TAR_PREFIX) and "*" not in entry
    if os.path.isdir(path) or (in_archives and PathManager.isdir(path)):
        return [os.path.join(entry, image) for image in _images_below(image_root, entry)]
    if "*" not in entry:
        return [entry] if os.path.isfile(path) or "://" in image_root else []
    folder = entry.partition("*")[0].rpartition("/")[0]
    # Of fnmatch's special letters only "*": file names have brackets.
    pattern = entry.removeprefix(folder).lstrip("/").replace("[", "[[]").replace("?", "[?]")
    return [
        os.path.join(folder, image)
        for image in _images_below(image_root, folder)
        if fnmatch.fnmatchcase(image, pattern)
    ]


def _images_below(image_root: str, folder: str) -> Iterator[str]:
    """The images of a folder below ``image_root``, or elsewhere, by their paths in it."""
    path = os.path.join(image_root, folder)
    is_listed = is_corpus(image_root) or image_root.startswith(TAR_PREFIX)
    if is_listed and not os.path.isabs(folder):
        # Not what is behind the links of a corpus: some of it was left out.
        inside = os.path.normpath(folder)
        prefix = "" if inside == "." else f"{inside}/"
        names = (name for name in list_images(image_root) if name.startswith(prefix))
        return (name[len(prefix) :] for name in names)
    return list_images(path) if os.path.isdir(path) else iter(())


def _relative(path: str, image_root: str) -> str:
    """As :func:`list_images` has it, if it is below ``image_root``: each image has one name."""
    if "://" in image_root:
        return path
    root, full = os.path.normpath(image_root), os.path.normpath(os.path.join(image_root, path))
    return os.path.relpath(full, root) if full.startswith(f"{root}/") else full
