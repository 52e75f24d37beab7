"""Fitting a scorer to a folder of images, and calibrating it, in streaming passes."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from detectron2_agssp.io.images import ImageReader, list_images
from detectron2_agssp.maps.calibration import Calibration, border_excess, without_border
from detectron2_agssp.maps.image_stream import (
    ImageLoader,
    paths_by_source,
    sample_paths,
    sample_paths_by_source,
    source_of,
)
from detectron2_agssp.maps.normal import normal_images, normal_images_by_source
from detectron2_agssp.maps.score import image_loader
from detectron2_agssp.maps.windows import Window, WindowReader
from detectron2_agssp.scoring.base import AnomalyScorer
from detectron2_agssp.scoring.per_source import COMMON, PerSourceScorer

logger = logging.getLogger(__name__)

# Of a source that is fitted or calibrated by itself.
FEWEST_IMAGES = 16


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
        ValueError: no normal images for a scorer that needs them (or of a source, where it is
            fitted per source), or no image that could be read.
    """
    folder = _Folder(cfg, scorer, _Reading(loader), total, progress, windows)
    stages = scorer.fit_stages()
    try:
        sources = folder.own_sources({stage.sample for stage in stages if stage.by_source})
        for stage in stages:
            if stage.by_source:
                stage.fit(folder.samples(stage.sample, [COMMON, *sources]))
            elif stage.sample != "none":
                with folder.sample(stage.sample) as images:
                    stage.fit(images)
    except ValueError as error:
        # A scorer that was given no images cannot know why.
        if folder.reading.num_read == 0 and folder.reading.failures:
            raise _nothing_readable(folder.reading.failures) from error
        raise


@dataclass
class _Folder:
    """The samples of a folder that ``scorer`` is fitted on: of all images, or of a source's."""

    cfg: CfgNode
    scorer: AnomalyScorer
    reading: "_Reading"
    total: int
    progress: bool
    windows: Sequence[Window]

    @property
    def root(self) -> str:
        return self.reading.loader.image_root

    @functools.cached_property
    def images_by_source(self) -> dict[str, list[str]]:
        return paths_by_source(list_images(self.root), self.root)

    @functools.cached_property
    def normal_by_source(self) -> dict[str, list[str]]:
        return normal_images_by_source(self.cfg, self.root)

    def own_sources(self, samples: set[str]) -> list[str]:
        """The sources that are fitted on alone, in ``samples``: none if there is only one.

        Raises:
            ValueError: one of them has no normal image, and they are needed.
        """
        if not samples or len(self.images_by_source) == 1:
            return []
        counts = {source: len(own) for source, own in self.images_by_source.items()}
        sources = large_sources(counts) if "unlabeled" in samples else list(counts)
        if "normal" in samples:
            given = set(self.normal_by_source)
            given |= {source_of(window.image, self.root) for window in self.windows}
            if missing := [source for source in sources if source not in given]:
                raise ValueError(
                    "AGSSP.SCORER.PER_SOURCE fits on each source's own normal images, but "
                    f"AGSSP.SCORER.NORMAL_IMAGES names none of {', '.join(map(repr, missing))}. "
                    "Name some of each, or set CALM_WINDOWS to take calm parts of images where "
                    "there are none."
                )
        return sources

    def samples(self, sample: str, sources: Iterable[str]) -> Iterator[tuple[str, object]]:
        for source in sources:
            with self.sample(sample, source) as images:
                yield source, images

    @contextlib.contextmanager
    def sample(self, sample: str, source: str = COMMON) -> Iterator[object]:
        """What a ``sample`` stands for (see :class:`AnomalyScorer`), of a source or, COMMON, of all
        images; while it is read there is a bar."""
        settings = self.cfg.AGSSP.SCORER
        if sample == "per_source":
            count, paths = self.scorer.images_per_source, list_images(self.root)
            if source != COMMON:
                paths = iter(self.images_by_source[source])
            sampled = sample_paths_by_source(paths, count, settings.SEED, self.root)
            with self._bar(source, sum(map(len, sampled.values()))) as bar:
                crops = self.reading.crops
                yield {name: crops(own, bar) for name, own in sampled.items()}
        elif sample == "normal":
            if source == COMMON:
                normal, windows = normal_images(self.cfg, self.root), list(self.windows)
            else:
                normal = self.normal_by_source.get(source, [])
                windows = [w for w in self.windows if source_of(w.image, self.root) == source]
            with self._bar(source, len(normal) + len(windows)) as bar:
                yield itertools.chain(self.reading.crops(normal, bar), self._cut(windows, bar))
        else:
            images: Iterable[str] = list_images(self.root)
            count = self.total
            if source != COMMON:
                images = self.images_by_source[source]
                count = len(images)
            if 0 < settings.FIT_IMAGES < count:
                count = settings.FIT_IMAGES
                images = sample_paths(images, count, settings.SEED)
            with self._bar(source, count) as bar:
                yield self.reading.crops(images, bar)

    def _cut(self, windows: Sequence[Window], bar: tqdm) -> Iterator[torch.Tensor]:
        if not windows:
            return iter(())
        reader = WindowReader(ImageReader(self.cfg), self.root, windows)
        cut = image_loader(self.cfg, self.scorer, self.root, reader)
        return self.reading.crops([window.image for window in windows], bar, cut)

    def _bar(self, source: str, total: int) -> tqdm:
        return _bar(f"fit {source}".strip(), total, self.progress)


def large_sources(counts: Mapping[str, int]) -> list[str]:
    """Of sources and their numbers of images, those with :data:`FEWEST_IMAGES`; a warning names the
    others."""
    small = [source for source, count in counts.items() if count < FEWEST_IMAGES]
    if small:
        logger.warning(
            "Of %d images, too few for a source of its own (%d): %s. What is learned of all "
            "images serves them.",
            sum(counts[source] for source in small),
            FEWEST_IMAGES,
            ", ".join(small),
        )
    return [source for source in counts if source not in small]


def _calibrate(cfg, scorer, loader, progress) -> Calibration:
    settings, seed = cfg.AGSSP.CALIBRATION, cfg.AGSSP.SCORER.SEED
    count, root = settings.MAX_IMAGES, loader.image_root
    own, by_source = {}, {}
    if settings.PER_SOURCE:
        by_source = paths_by_source(list_images(root), root)
    if len(by_source) > 1:
        for source in large_sources({source: len(paths) for source, paths in by_source.items()}):
            sampled = sample_paths(by_source[source], count, seed)
            try:
                own[source] = _calibrate_on(cfg, scorer, loader, sampled, progress, source)
            except ValueError as error:
                raise ValueError(
                    f"AGSSP.CALIBRATION.PER_SOURCE: the source {source!r}: {error}"
                ) from error
    # Then only the maps of other sources are calibrated by it, and made by the fit on all images.
    is_common = bool(own) and isinstance(scorer, PerSourceScorer)
    sampled = sample_paths(list_images(root), count, seed)
    whole = _calibrate_on(cfg, scorer, loader, sampled, progress, COMMON if is_common else None)
    return dataclasses.replace(whole, sources=own)


def _calibrate_on(
    cfg, scorer, loader, paths: list[str], progress, source: str | None
) -> Calibration:
    """Of the images at ``paths``, all scored as of ``source``; None: each as of its own."""
    settings = cfg.AGSSP.CALIBRATION
    raw = []
    reading = _Reading(loader)
    with _bar(f"calibrate {source or ''}".strip(), len(paths), progress) as bar:
        for crops, found in reading.crops_and_sources(paths, bar):
            own = found if source is None else source
            raw.append(scorer.score(crops, own).maps.cpu().numpy())
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
