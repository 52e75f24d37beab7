"""One HTML page that shows what a corpus is made of, before days are trained on it."""

import json
import os
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detectron2_agssp.data.corpus import LEFT_OUT_FILE, REPORT_FILE, Corpus
from detectron2_agssp.io.corpus_file import corpus_entries
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.manifest import seeded_rank
from detectron2_agssp.reports import figures
from detectron2_agssp.reports.page import picture, write_page

# Pictures of a montage, their side in pixels, and the space between.
COLUMNS, ROWS, TILE, GAP = 8, 2, 96, 3
# Sources with a montage, and in a figure: a page of hundreds does not open.
NUM_MONTAGES = 100
NUM_HISTOGRAMS = 40
_NUM_LISTED = 200
_BRIGHTNESS_EDGES = np.linspace(0, 256, 33)
# From here on, an epoch of all images is an epoch of a few sources.
_IMBALANCE = 10
_PAPER_IMBALANCE = 57


def write_corpus_report(cfg, corpus: Corpus, path: str | Path | None = None) -> Path:
    """Writes a self-contained HTML report of a corpus: counts, sizes and brightness by source, a
    montage of each, and what was left out.

    Args:
        cfg: images are read by ``cfg.AGSSP.INPUT``.
        corpus: of :func:`~detectron2_agssp.data.corpus.build_corpus`.
        path: HTML file; None for ``report.html`` in the corpus.

    Returns:
        The path.
    """
    by_source = defaultdict(list)
    for entry in corpus_entries(corpus.root):
        by_source[entry["source"]].append(entry)
    names = [name for name in corpus.sources if by_source[name]]
    names.sort(key=lambda name: (-len(by_source[name]), name))
    reader = ImageReader(cfg)
    sections = [
        _overview(corpus, names, by_source),
        {"title": "Sources", "table": _table(corpus, by_source), "figures": _drawn(by_source)},
        {
            "title": "Montages",
            "text": [f"{COLUMNS * ROWS} images of each source at most, a seeded sample."],
            "pictures": [
                picture(
                    _montage(corpus.root, by_source[name], reader),
                    f"{name}: {len(by_source[name]):,} images",
                    quality=80,
                )
                for name in names[:NUM_MONTAGES]
            ],
        },
        _left_out(corpus),
    ]
    path = corpus.root / REPORT_FILE if path is None else path
    return write_page(
        path,
        "sections.html",
        title="Corpus",
        subtitle=corpus.root.resolve().name,
        sections=sections,
    )


def _overview(corpus: Corpus, names: list[str], by_source: dict[str, list]) -> dict[str, Any]:
    counts = [len(by_source[name]) for name in names]
    warnings = []
    if len(counts) > 1 and max(counts) >= _IMBALANCE * min(counts):
        warnings.append(
            f"The largest source has {max(counts) / min(counts):.0f} times the images of the "
            f"smallest (in the paper {_PAPER_IMBALANCE} times). AGSSP.DATALOADER.SOURCE_POWER "
            "shows small sources more often."
        )
    if len(names) == 1:
        warnings.append("There is one source: what is odd in it is all that can be learned.")
    empty = [name for name in corpus.sources if name not in names]
    if empty:
        warnings.append(f"Nothing is left of these sources: {', '.join(empty)}.")
    if "held out" not in corpus.reasons and not _settings(corpus).get("held_out"):
        warnings.append(
            "No validation and test images were named (--without): they may be in the corpus."
        )
    root = shlex.quote(os.fspath(corpus.root))
    return {
        "title": "Overview",
        "warnings": warnings,
        "values": {
            "images": corpus.total,
            "sources": len(names),
            **{f"left out, {reason}": count for reason, count in sorted(corpus.reasons.items())},
            "folders not read": len(corpus.skipped_folders),
        },
        "commands": [f"agssp maps {root} MAPS", f"agssp pretrain {root} OUT"],
    }


def _settings(corpus: Corpus) -> dict:
    return json.loads((corpus.root / "corpus.json").read_text(encoding="utf-8"))


def _table(corpus: Corpus, by_source: dict[str, list]) -> dict[str, Any]:
    rows: list[list] = []
    for name, folder in corpus.sources.items():
        entries, reasons = by_source[name], corpus.left_out[name]
        sides = [(entry["height"] * entry["width"]) ** 0.5 for entry in entries]
        brightness = [entry["brightness"] for entry in entries]
        row = [name, len(entries), *(reasons[why] for why in ("duplicate", "held out"))]
        row += [reasons["unreadable"]]
        row += [float(function(sides)) if sides else None for function in (min, np.median, max)]
        row += [float(f(brightness)) if brightness else None for f in (np.mean, np.std)]
        rows.append([*row, str(folder)])
    headers = ["source", "images", "duplicates", "held out", "unreadable"]
    headers += ["smallest", "median", "largest", "brightness", "spread", "folder"]
    return {
        "headers": headers,
        "rows": rows,
        "caption": "duplicates, held out, unreadable: left out; smallest, median, largest: sides, "
        "root of the area, pixels; brightness: mean grey of an image, 0 to 255, and its spread.",
        "decimals": [0] * 11,
    }


def _drawn(by_source: dict[str, list]) -> list[tuple]:
    names = sorted((n for n in by_source if by_source[n]), key=lambda n: (-len(by_source[n]), n))
    shown = names[:NUM_HISTOGRAMS]
    counts = figures.bars(shown, [len(by_source[name]) for name in shown], x_label="images")
    histograms = {
        name: np.histogram([e["brightness"] for e in by_source[name]], _BRIGHTNESS_EDGES)[0]
        for name in shown
    }
    brightness = figures.histograms(histograms, _BRIGHTNESS_EDGES, x_label="mean grey")
    return [
        (counts, "Images by source."),
        (brightness, "Images by brightness, source by source, each to its own height."),
    ]


def _montage(root: Path, entries: list[dict], reader: ImageReader) -> np.ndarray:
    """(H, W, 3) uint8: a seeded sample, each image whole on a grey square."""
    sample = sorted(entries, key=lambda entry: seeded_rank(0, entry["image"]))[: COLUMNS * ROWS]
    rows = -(-len(sample) // COLUMNS)
    step = TILE + GAP
    columns = min(COLUMNS, len(sample))
    canvas = np.full((rows * step - GAP, columns * step - GAP, 3), 128, np.uint8)
    for number, entry in enumerate(sample):
        try:
            image = reader(root / entry["image"])
        except (ValueError, OSError):
            continue  # it was there a moment ago; its square stays grey
        scale = TILE / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        y = number // COLUMNS * step + (TILE - height) // 2
        x = number % COLUMNS * step + (TILE - width) // 2
        canvas[y : y + height, x : x + width] = small
    return canvas


def _left_out(corpus: Corpus) -> dict[str, Any]:
    lines = []
    with open(corpus.root / LEFT_OUT_FILE, encoding="utf-8") as file:
        for line, _ in zip(file, range(_NUM_LISTED), strict=False):
            entry = json.loads(line)
            why = entry.get("detail") or f"like {entry['like']} (r = {entry['r']:.3f})"
            lines.append(f"{entry['image']}: {entry['reason']}, {why}")
    total = sum(corpus.reasons.values())
    section: dict[str, Any] = {
        "title": "Left out",
        "text": [f"Images: {total:,}. All are listed in {LEFT_OUT_FILE} beside this page."],
    }
    if lines:
        title = "All of them" if len(lines) == total else f"The first {len(lines)}"
        section["details"] = {title: "\n".join(lines)}
    if corpus.skipped_folders:
        section["warnings"] = corpus.skipped_folders[:10]
    return section
