"""One HTML page that shows what a map folder is good for, before anything is trained on it."""

import json
from pathlib import Path

import numpy as np

from detectron2_agssp.boxes.threshold import map_statistics
from detectron2_agssp.evaluation.box_statistics import UNIT_BINS, BoxStatistics
from detectron2_agssp.maps.generate import registration_hint
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.reports import HtmlReport
from detectron2_agssp.reports.folder_summary import FolderSummary, summarize_map_folder
from detectron2_agssp.reports.map_panels import MapPainter, find_image_root
from detectron2_agssp.reports.recorded_settings import readable_settings
from detectron2_agssp.reports.skipped import SkippedFiles, read_skipped

_TILE_HEIGHT = 192  # px; with 18 panels the page stays at a few megabytes
_REASONS_LISTED = 20
_EDGES = np.linspace(0, 1, UNIT_BINS // 4 + 1)  # of the histograms of values in [0, 1]


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

    It shows the scorer's settings, the scores by source, the images with the highest and the lowest
    scores and a random sample with their maps and pseudo-boxes, box statistics by source, the maps'
    maxima against the threshold, the skipped files, and what to do next. The same folder and
    arguments give the same bytes.

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
    skipped = read_skipped(map_root)
    scorer = MapStore(map_root).read_scorer()
    page = HtmlReport("Anomaly maps", map_root.resolve().name)
    _add_overview(page, summary, skipped, scorer, known_root)
    _add_next(page, cfg, map_root, known_root)
    _add_scores(page, summary)
    _add_panels(page, cfg, map_root, image_root, summary)
    _add_boxes(page, cfg, map_root, summary)
    _add_skipped(page, skipped)
    _add_scorer(page, scorer)
    return page.write(path)


def _add_overview(page, summary: FolderSummary, skipped, scorer, image_root: str) -> None:
    boxes = summary.boxes
    settings = readable_settings(scorer)
    page.add_section("Overview")
    page.add_key_values(
        {
            "images": summary.num_images,
            "sources": summary.num_sources,
            "skipped files": "not recorded" if skipped is None else skipped.count,
            "images with boxes": _percent(boxes.with_boxes, boxes.images),
            "boxes an image": boxes.boxes / boxes.images,
            "image area in boxes": _percent(boxes.covered, boxes.images),
            "box threshold": summary.threshold,
            **{key: settings[key] for key in ("scorer", "model", "image size") if key in settings},
            "image folder": image_root or "unknown",
        }
    )
    _add_sample_note(page, summary)


def _add_next(page, cfg, map_root: Path, image_root: str) -> None:
    boxes = cfg.AGSSP.BOXES
    key, value = {
        "mean_max": ("AGSSP.BOXES.MARGIN", boxes.MARGIN),
        "quantile": ("AGSSP.BOXES.QUANTILE", boxes.QUANTILE),
        "fixed": ("AGSSP.BOXES.THRESHOLD", boxes.THRESHOLD),
    }[boxes.THRESHOLD_MODE]
    more = "A larger" if boxes.THRESHOLD_MODE == "mean_max" else "A smaller"
    page.add_section("Next")
    page.add_text(
        registration_hint(image_root or "IMAGE_DIR", map_root),
        f"{more} {key} (here {value}) lowers the threshold: more and larger boxes. "
        "AGSSP.BOXES.THRESHOLD_MODE chooses how it is found. AGDP training reads the same keys: "
        "put the values that you settle on into its config. AGBP needs no threshold.",
    )


def _add_scores(page: HtmlReport, summary: FolderSummary) -> None:
    page.add_section("Scores")
    page.add_text(
        "An image's score on the calibrated scale of the maps, before clipping: 0 is an ordinary "
        "place, 1 was reached by hardly any cell when the scale was set."
    )
    total = np.sum([source.score_counts for source in summary.sources], axis=0)
    page.add_histogram(total, "Images by score.", edges=summary.score_edges, x_label="score")
    if summary.num_sources < 2:
        return
    apart = len(summary.sources) - (summary.num_sources > len(summary.sources))
    rest = f" The {apart} largest sources; all others are summed."
    page.add_histogram_rows(
        {source.name: source.score_counts for source in summary.sources},
        summary.score_edges,
        "Images by score, source by source, each to its own height; right: images."
        + (rest if apart < summary.num_sources else ""),
        x_label="score",
    )


def _add_panels(page, cfg, map_root: Path, image_root, summary: FolderSummary) -> None:
    draw = MapPainter(cfg, map_root, rule=summary.rule, image_root=image_root)
    for title, entries in (
        ("Highest scores", summary.best),
        ("Lowest scores", summary.worst),
        ("Random images", summary.random),
    ):
        if not entries:  # a folder of a few images: each is shown once
            continue
        panels = [draw(entry, _TILE_HEIGHT) for entry in entries]
        page.add_images(title, panels, quality=80)
    if draw.missing:
        page.add_text(
            f"{draw.missing} of these images could not be read; their folder is "
            f"{draw.image_root or 'unknown'}. If they moved, name their new place: "
            "agssp report MAP_DIR OUTPUT --report --image-root FOLDER."
        )


def _add_boxes(page: HtmlReport, cfg, map_root: Path, summary: FolderSummary) -> None:
    settings, total = cfg.AGSSP.BOXES, summary.boxes
    page.add_section("Pseudo-boxes")
    how = {
        "mean_max": lambda: (
            f"the mean of the maps' maxima, {map_statistics(map_root).mean_max:.4f}, minus "
            f"AGSSP.BOXES.MARGIN {settings.MARGIN}"
        ),
        "quantile": lambda: f"the quantile {settings.QUANTILE} of all map values",
        "fixed": lambda: "AGSSP.BOXES.THRESHOLD as given",
    }[settings.THRESHOLD_MODE]()
    page.add_text(
        f"Boxes are cut at {summary.threshold:.4f}, by THRESHOLD_MODE {settings.THRESHOLD_MODE}: "
        f"{how}. At most {settings.MAX_BOXES} an image, overlapping by at most "
        f"{settings.NMS_IOU} (IoU). Images without a box stay in training as negatives."
    )
    _add_sample_note(page, summary)
    rows = [[one.name, one.images, one.score_sum, one.boxes] for one in summary.sources]
    if len(rows) > 1:
        score_sum = sum(one.score_sum for one in summary.sources)
        rows.append(["all", summary.num_images, score_sum, total])
    page.add_table(
        [
            *("source", "images", "score", "with boxes", "boxes", "small", "median", "large"),
            "area",
        ],
        [
            [name, images, score_sum / images, *_box_columns(boxes)]
            for name, images, score_sum, boxes in rows
        ],
        "score: mean; with boxes: images that have any, %; boxes: an image; small, median, large: "
        "10 %, 50 % and 90 % quantile of the boxes' sides (root of the area, % of the image's); "
        "area: of the images that lies in boxes, %.",
        decimals=[0, 0, 3, 1, 2, 1, 1, 1, 2],
    )
    page.add_histogram(
        total.maxima.reshape(-1, 4).sum(axis=1),
        "Images by their map's maximum. Those left of the threshold get no box.",
        edges=_EDGES,
        x_label="maximum of the map",
        markers={"threshold": summary.threshold},
    )
    # From the second limit on: at the first, everything would be above, also what is 0.
    limits = np.linspace(0, 1, UNIT_BINS + 1)[1:-1]
    curves = {
        "images with a cell above it": _percent_above(total.maxima)[1:],
        "cells above it": _percent_above(total.cells)[1:],
    }
    here = [np.interp(summary.threshold, limits, curve) for curve in curves.values()]
    page.add_line_chart(
        {name: (limits, curve) for name, curve in curves.items()},
        f"What another threshold would keep; {summary.threshold:.3f} keeps {here[0]:.1f} % of the "
        f"images and {here[1]:.1f} % of the cells. Boxes also need a smallest area, so somewhat "
        "fewer images have one.",
        x_label="threshold",
        y_label="percent",
    )


def _add_skipped(page: HtmlReport, skipped: SkippedFiles | None) -> None:
    page.add_section("Skipped files")
    if skipped is None:
        page.add_text(
            "The folder has no skipped.jsonl: the run that makes it has not ended, or was an older "
            "version's. Run agssp maps again to finish it."
        )
        return
    if skipped.count == 0:
        page.add_text("None: every image has a map.")
        return
    reasons = list(skipped.reasons.items())
    listed, rest = reasons[:_REASONS_LISTED], reasons[_REASONS_LISTED:]
    rows = [[kind, count, image] for kind, (count, image, _) in listed]
    if rest:
        count = sum(count for _, (count, _, _) in rest)
        rows.append([f"{len(rest):,} other reasons", count, rest[0][1][1]])
    page.add_table(
        ["reason", "images", "the first"],
        rows,
        "Images without a map. Numbers and quoted names in a reason are left out.",
    )
    page.add_details(
        f"The first {len(skipped.first):,} of {skipped.count:,}, with their reasons",
        [f"{image}: {reason}" for image, reason in skipped.first],
    )


def _add_scorer(page: HtmlReport, scorer: dict | None) -> None:
    page.add_section("Scorer")
    if scorer is None:
        page.add_text("The folder has no scorer.json: how its maps were made is not known.")
        return
    page.add_key_values(readable_settings(scorer))
    text = json.dumps(scorer, indent=2, sort_keys=True, ensure_ascii=False)
    page.add_details("scorer.json", text)


def _add_sample_note(page: HtmlReport, summary: FolderSummary) -> None:
    if summary.boxes.images < summary.num_images:
        page.add_text(
            f"The figures on boxes and on map values are those of a seeded sample of "
            f"{summary.boxes.images:,} of the {summary.num_images:,} images."
        )


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


def _percent_above(counts: np.ndarray) -> np.ndarray:
    """Percent of what is counted that lies at or above each bin's lower limit."""
    return 100 * np.cumsum(counts[::-1])[::-1] / counts.sum()


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"
