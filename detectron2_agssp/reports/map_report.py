"""One HTML page that shows what a map folder is good for, before anything is trained on it."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.boxes.threshold import map_statistics
from detectron2_agssp.evaluation.box_statistics import UNIT_BINS
from detectron2_agssp.evaluation.judgement import verdict
from detectron2_agssp.io.files import datasets_root
from detectron2_agssp.maps.generate import registration_hint
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.reports import figures
from detectron2_agssp.reports.folder_summary import FolderSummary, summarize_map_folder
from detectron2_agssp.reports.map_panels import MapPainter, find_image_root
from detectron2_agssp.reports.page import picture, write_page
from detectron2_agssp.reports.recorded_settings import readable_settings
from detectron2_agssp.reports.skipped import read_skipped

_TILE_HEIGHT = 288  # px; with 18 panels the page stays at a few megabytes
_EDGES = np.linspace(0, 1, UNIT_BINS // 4 + 1)  # of the histogram of values in [0, 1]


def write_map_report(
    cfg,
    map_root: str | Path,
    path: str | Path,
    *,
    image_root: str | Path | None = None,
    num_panels: int = 6,
    seed: int = 0,
    max_images: int = 10_000,
    progress: bool = True,
) -> Path:
    """Writes a self-contained HTML report of a map folder.

    It shows what to be wary of and what to do next, the scores by source, the images with the
    highest and the lowest scores and a random sample with their maps and pseudo-boxes, box
    statistics by source, the maps' maxima against the threshold, the skipped files, and the
    scorer's settings. The same folder and arguments give the same bytes.

    Args:
        cfg: pseudo-boxes are cut by ``cfg.AGSSP.BOXES``.
        map_root: the map folder.
        path: HTML file to write.
        image_root: folder that the manifest's paths are relative to; None for the one recorded in
            ``scorer.json``. An image that is not there is replaced by a tile that says so.
        num_panels: images in each of the three groups.
        seed: of the random panels and of the sample for the box statistics.
        max_images: maps that are read for the box statistics, at most; the report says if these are
            not all.
        progress: show progress bars.

    Returns:
        The path.

    Raises:
        FileNotFoundError: no manifest, a map is missing (named), or ``image_root`` is given and
            does not exist.
        ValueError: the manifest is empty or damaged, a map is damaged (named), the folder gives no
            usable threshold, or an argument is out of its range.
    """
    map_root = Path(map_root)
    known_root = find_image_root(map_root, image_root)
    summary = summarize_map_folder(
        cfg,
        map_root,
        num_examples=num_panels,
        seed=seed,
        max_images=max_images,
        progress=progress,
    )
    skipped, scorer = read_skipped(map_root), MapStore(map_root).read_scorer()
    settings = readable_settings(scorer)
    draw = MapPainter(cfg, map_root, rule=summary.rule, image_root=image_root)
    groups = {
        "Highest scores": summary.best,
        "Lowest scores": summary.worst,
        "Random images": summary.random,
    }
    boxes = summary.boxes
    overview = {
        "images": summary.num_images,
        "sources": summary.num_sources,
        "skipped files": "not recorded" if skipped is None else skipped.count,
        "images with boxes": f"{100 * boxes.with_boxes / boxes.images:.1f} %",
        "boxes per image": f"{boxes.boxes / boxes.images:.2f}",
        "image area in boxes": f"{100 * boxes.covered / boxes.images:.1f} %",
        "box threshold": summary.rule.mean_threshold,
        **{key: settings[key] for key in ("scorer", "model", "image size") if key in settings},
        "image folder": known_root or "unknown",
    }
    by_maxima = cfg.AGSSP.BOXES.THRESHOLD_MODE == "mean_max"
    resolved = map_root.resolve()
    is_registered = resolved.parent == datasets_root().resolve() / "agssp"
    panels = {
        title: [_panel(draw, entry) for entry in entries]
        for title, entries in groups.items()
        if entries  # in a folder of a few images each is shown once
    }
    return write_page(
        path,
        "map_report.html",
        title="Anomaly maps",
        subtitle=resolved.name,
        summary=summary,
        overview=overview,
        warnings=verdict(boxes),
        images=shlex.quote(known_root) if known_root else "IMAGES",
        maps=shlex.quote(os.fspath(map_root)),
        name=resolved.name if is_registered else "NAME",
        registration=registration_hint(known_root or "IMAGES", map_root),
        panels=panels,
        missing=draw.missing,
        boxes=cfg.AGSSP.BOXES,
        mean_max=map_statistics(map_root).mean_max if by_maxima else None,
        **_figures(summary),
        rows=_box_rows(summary),
        skipped=skipped,
        settings=settings,
        scorer=scorer and json.dumps(scorer, indent=2, sort_keys=True, ensure_ascii=False),
    )


def _panel(draw: MapPainter, entry: dict) -> dict[str, Any]:
    caption, panel = draw(entry, _TILE_HEIGHT)
    return picture(panel, caption, quality=80, wide=True)


def _figures(summary: FolderSummary) -> dict[str, Any]:
    """What the template draws, by its names for it."""
    threshold, boxes = summary.rule.mean_threshold, summary.boxes
    counts = {source.name: summary.score_counts(source) for source in summary.sources}
    maxima = boxes.maxima.reshape(-1, 4).sum(axis=1)
    # From the second limit on: at the first, everything would be above, also what is 0.
    limits = np.linspace(0, 1, UNIT_BINS + 1)[1:-1]
    images, cells = (_percent_above(values)[1:] for values in (boxes.maxima, boxes.cells))
    return {
        "scores": figures.histograms(
            {"all": np.sum([*counts.values()], axis=0)}, summary.score_edges, x_label="score"
        ),
        "scores_by_source": figures.histograms(counts, summary.score_edges, x_label="score"),
        "maxima": figures.histograms(
            {"all": maxima}, _EDGES, x_label="maximum of the map", marker=("threshold", threshold)
        ),
        "thresholds": figures.lines(
            {"images with a cell above it": (limits, images), "cells above it": (limits, cells)},
            x_label="threshold",
            y_label="percent",
        ),
        "kept_images": np.interp(threshold, limits, images),
        "kept_cells": np.interp(threshold, limits, cells),
    }


def _box_rows(summary: FolderSummary) -> list[list]:
    """A row per source, and one of all where there are several."""
    sources = [(source.name, source.scores, source.boxes) for source in summary.sources]
    if len(sources) > 1:
        scores = [score for source in summary.sources for score in source.scores]
        sources.append(("all", scores, summary.boxes))
    rows = []
    for name, scores, boxes in sources:
        images = boxes.images or np.nan  # the sample may have none of a small source
        sides = [boxes.side_quantile(q) for q in (0.1, 0.5, 0.9)]
        row = [name, len(scores), float(np.mean(scores))]
        row += [100 * boxes.with_boxes / images, boxes.boxes / images]
        row += [None if side is None else 100 * side for side in sides]
        rows.append([*row, 100 * boxes.covered / images])
    return rows


def _percent_above(counts: np.ndarray) -> np.ndarray:
    """Percent of what is counted that lies at or above each bin's lower limit."""
    return 100 * np.cumsum(counts[::-1])[::-1] / counts.sum()
