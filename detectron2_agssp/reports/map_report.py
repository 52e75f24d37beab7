"""One HTML page that shows what a map folder is good for, before anything is trained on it."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.boxes.threshold import map_statistics
from detectron2_agssp.evaluation.box_statistics import UNIT_BINS, BoxStatistics
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
_REASONS_LISTED = 20
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
    panels = {
        title: [_panel(draw, entry) for entry in entries]
        for title, entries in (
            ("Highest scores", summary.best),
            ("Lowest scores", summary.worst),
            ("Random images", summary.random),
        )
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
    return write_page(
        path,
        "map_report.html",
        title="Anomaly maps",
        subtitle=map_root.resolve().name,
        summary=summary,
        overview=overview,
        warnings=[],
        registration=registration_hint(known_root or "IMAGES", map_root),
        commands=_commands(map_root, known_root),
        # A folder of a few images: each is shown once.
        panels={title: group for title, group in panels.items() if group},
        missing=draw.missing,
        boxes=cfg.AGSSP.BOXES,
        mean_max=_mean_max(cfg, map_root),
        score_figures=_score_figures(summary),
        box_rows=_box_rows(summary),
        box_figures=_box_figures(summary),
        skipped=skipped,
        skipped_rows=_skipped_rows(skipped),
        settings=settings,
        scorer=scorer and json.dumps(scorer, indent=2, sort_keys=True, ensure_ascii=False),
    )


def _panel(draw: MapPainter, entry: dict) -> dict[str, Any]:
    caption, panel = draw(entry, _TILE_HEIGHT)
    return picture(panel, caption, quality=80)


def _commands(map_root: Path, image_root: str) -> dict[str, str]:
    """What to do next -> the shell line, with this folder's own names."""
    maps = shlex.quote(os.fspath(map_root))
    images = shlex.quote(image_root) if image_root else "IMAGES"
    home = datasets_root().resolve() / "agssp"
    name = map_root.resolve().name if map_root.resolve().parent == home else "NAME"
    train = "agssp train --config-file agssp://{}.yaml DATASETS.TRAIN \"('agssp_{}',)\""
    return {
        "Are the boxes better than random ones? A few labelled images of this folder say it:": (
            f"agssp evaluate boxes {maps} LABELS.json"
        ),
        "Look at another threshold:": f"agssp report {maps} OUT AGSSP.BOXES.MARGIN 0.2",
        "The whole method in one command, from the images to weights for your detector:": (
            f"agssp pretrain {images} OUT"
        ),
        "Or step by step, the backbone on these maps (AGBP):": train.format("agbp/lite0", name),
        "then the detector on these boxes (AGDP):": (
            train.format("agdp/faster_rcnn_lite0_fpn", f"{name}_boxes")
            + " MODEL.WEIGHTS AGBP_OUTPUT/model_final.pth"
        ),
    }


def _mean_max(cfg, map_root: Path) -> float | None:
    """Mean of the maps' maxima, where the threshold is taken from it."""
    by_maxima = cfg.AGSSP.BOXES.THRESHOLD_MODE == "mean_max"
    return map_statistics(map_root).mean_max if by_maxima else None


def _score_figures(summary: FolderSummary) -> list[tuple]:
    edges = summary.score_edges
    counts = {source.name: summary.score_counts(source) for source in summary.sources}
    total = np.sum([*counts.values()], axis=0)
    drawn = [(figures.histograms({"all": total}, edges, x_label="score"), "Images by score.")]
    if summary.num_sources > 1:
        caption = (
            "Images by score, source by source, each to its own height; with the number of images. "
            "Small sources are summed."
        )
        drawn.append((figures.histograms(counts, edges, x_label="score"), caption))
    return drawn


def _box_rows(summary: FolderSummary) -> list[list]:
    """A row per source, and one of all where there are several."""
    sources = [(source.name, source.scores, source.boxes) for source in summary.sources]
    if len(sources) > 1:
        scores = [score for source in summary.sources for score in source.scores]
        sources.append(("all", scores, summary.boxes))
    return [
        [name, len(scores), float(np.mean(scores)), *_box_columns(boxes)]
        for name, scores, boxes in sources
    ]


def _box_columns(boxes: BoxStatistics) -> list[float | None]:
    """The table's columns from "with boxes" on; None where the sample has none of the source."""
    if boxes.images == 0:
        return [None] * 6
    sides = [boxes.side_quantile(q) for q in (0.1, 0.5, 0.9)]
    return [
        100 * boxes.with_boxes / boxes.images,
        boxes.boxes / boxes.images,
        *(None if side is None else 100 * side for side in sides),
        100 * boxes.covered / boxes.images,
    ]


def _box_figures(summary: FolderSummary) -> list[tuple]:
    boxes, threshold = summary.boxes, summary.rule.mean_threshold
    maxima = boxes.maxima.reshape(-1, 4).sum(axis=1)
    # From the second limit on: at the first, everything would be above, also what is 0.
    limits = np.linspace(0, 1, UNIT_BINS + 1)[1:-1]
    curves = {
        "images with a cell above it": _percent_above(boxes.maxima)[1:],
        "cells above it": _percent_above(boxes.cells)[1:],
    }
    here = [np.interp(threshold, limits, curve) for curve in curves.values()]
    return [
        (
            figures.histograms(
                {"all": maxima},
                _EDGES,
                x_label="maximum of the map",
                marker=("threshold", threshold),
            ),
            "Images by their map's maximum. Those left of the threshold get no box.",
        ),
        (
            figures.lines(
                {name: (limits, curve) for name, curve in curves.items()},
                x_label="threshold",
                y_label="percent",
            ),
            f"What another threshold would keep; {threshold:.3f} keeps {here[0]:.1f} % of the "
            f"images and {here[1]:.1f} % of the cells. Boxes also need a smallest area, so "
            "somewhat fewer images have one.",
        ),
    ]


def _skipped_rows(skipped) -> list[list]:
    rows = [[kind, *counted] for kind, counted in skipped.reasons.items()] if skipped else []
    rest = rows[_REASONS_LISTED:]
    if rest:
        total = sum(row[1] for row in rest)
        rows[_REASONS_LISTED:] = [[f"{len(rest):,} other reasons", total, rest[0][2]]]
    return rows


def _percent_above(counts: np.ndarray) -> np.ndarray:
    """Percent of what is counted that lies at or above each bin's lower limit."""
    return 100 * np.cumsum(counts[::-1])[::-1] / counts.sum()
