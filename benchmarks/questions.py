"""Draws the plots of docs/questions.md: from the few-label benchmark's results, and from the tables
of that page and of benchmarks/results/corpus.md, so that a plot shows what is written.

    python -m benchmarks.questions
"""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.few_label.results import read_candidates
from detectron2_agssp.io.files import atomic_path
from detectron2_agssp.utils.command_line import CommandParser, readable_errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "questions.md"
CORPUS = ROOT / "benchmarks" / "results" / "corpus.md"
FEW_LABEL = ROOT / "benchmarks" / "results" / "few_label"
FIGURES = ROOT / "docs" / "figures"

# Title -> benchmark, labelled share, and the boxes that AGDP learned: arm -> name.
BOXES = {
    "NEU-DET, 10 %": (
        "neu_det_cpu",
        10,
        {
            "imagenet": "no AGDP",
            "agdp_shuffled": "of other\nimages",
            "agdp": "first round's,\nfrozen",
            "agdp_rounds_unfrozen": "second\nround's",
            "agdp_labels": "withheld\nlabels",
        },
    ),
    "Magnetic-Tile, 25 %": (
        "magnetic_tile_cpu",
        25,
        {
            "imagenet": "no AGDP",
            "agdp_unfrozen": "first\nround's",
            "agdp_labels": "withheld\nlabels",
        },
    ),
}
SOURCES = ("NEU-DET", "1 source", "4 sources", "all sources")
TEST_SETS = {"NEU": "NEU-DET", "MT": "Magnetic-Tile", "GC10": "GC10-DET"}
SHAPES = {
    "by size": ("size < 0.1", "0.1 to 0.3", "> 0.3"),
    "by aspect ratio": ("aspect < 2", "2 to 4", "> 4"),
}
STARTS = ("ImageNet", "AGSSP of 27 sources")


def read_table(text: str, header: str) -> dict[str, dict[str, str]]:
    """The markdown table whose first column is called ``header``: the first cell of each row -> the
    row, by the names of the columns.

    Raises:
        ValueError: there is no such table.
    """
    lines = iter(text.splitlines())
    for line in lines:
        names = _cells(line)
        if line.startswith("|") and names[0] == header:
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(dict(zip(names, _cells(row), strict=True)))
            return {row[header]: row for row in rows}
    raise ValueError(f"There is no table whose first column is {header!r}.")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def draw_quality(results: str | Path) -> Figure:
    """AP and AP50 on validation images, at the better rate, over the boxes that AGDP learned."""
    figure = _figure()
    panels = figure.subplots(1, len(BOXES), width_ratios=[len(arms) for *_, arms in BOXES.values()])
    for axes, (title, (name, fraction, arms)) in zip(panels, BOXES.items(), strict=True):
        tried = [
            (one["validation"]["AP"], one["arm"], one["validation"])
            for one in read_candidates(Path(results) / name)
            if one["arm"] in arms and one["fraction"] == fraction
        ]
        # The last of an arm, which is its best, stays.
        best = {arm: figures for _, arm, figures in sorted(tried, key=lambda one: one[0])}
        _bars(
            axes, list(arms.values()), {m: [best[arm][m] for arm in arms] for m in ("AP", "AP50")}
        )
        axes.set_title(f"{title} of the labels")
        axes.set_xlabel("boxes of AGDP")
    panels[0].set_ylabel("%, on validation images")
    return figure


def draw_diversity(corpus: str) -> Figure:
    """AUROC of energies over the number of sources, at equal counts of images."""
    table = read_table(corpus, "AUROC of energies")
    figure = _figure()
    for axes, level in zip(figure.subplots(1, 2, sharey=True), ("res4", "res5"), strict=True):
        arms = [f"equal counts: {source}" for source in SOURCES]
        for index, (key, title) in enumerate(TEST_SETS.items()):
            values = [
                [float(part) for part in table[arm][f"{level} {key}"].split("±")] for arm in arms
            ]
            start = float(table["ImageNet, without AGBP"][f"{level} {key}"])
            means, deviations = zip(*values, strict=True)
            places = np.arange(len(arms)) + 0.12 * (index - 1)
            axes.errorbar(
                places, means, yerr=deviations, fmt="o", capsize=3, color=f"C{index}", label=title
            )
            axes.axhline(start, color=f"C{index}", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(arms)), [source.replace(" ", "\n") for source in SOURCES])
        axes.set_title(f"energies of {level}; dotted: before AGBP")
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlabel("AGBP on 1,008 images of")
    figure.axes[0].set_ylabel("AUROC against labels")
    return figure


def draw_shapes(page: str) -> Figure:
    """AP on CR7-DET's test images over size and aspect ratio of the defects."""
    table = read_table(page, "start")
    figure = _figure()
    for axes, (title, groups) in zip(
        figure.subplots(1, 2, sharey=True), SHAPES.items(), strict=True
    ):
        names = [f"{group}\n({table['(boxes)'][group]} boxes)" for group in groups]
        values = {start: [float(table[start][group]) for group in groups] for start in STARTS}
        _bars(axes, names, values)
        axes.set_title(title)
    figure.axes[0].set_ylabel("AP on test images, %")
    return figure


def _bars(axes, names: list[str], series: dict[str, list[float]]) -> None:
    """A group of bars for each name, one bar for each of the series, its value above it."""
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        places = np.arange(len(names)) + width * (index - (len(series) - 1) / 2)
        bars = axes.bar(places, values, width, label=label, color=f"C{index}")
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.1)


def _figure() -> Figure:
    # Without pyplot, which would choose a display.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG file, with the legend of the first panel below all; the same figure gives the
    same bytes."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
        # A palette is enough, and a third of the size.
        with Image.open(temporary) as image:
            small = image.convert("RGB").quantize(64)
        small.save(temporary, format="PNG", optimize=True)


def main() -> None:
    parser = CommandParser("python -m benchmarks.questions", __doc__)
    parser.add_argument("--output", type=Path, default=FIGURES, help="folder (docs/figures)")
    args = parser.parse()
    with readable_errors():
        figures = {
            "quality": draw_quality(FEW_LABEL),
            "diversity": draw_diversity(CORPUS.read_text(encoding="utf-8")),
            "shapes": draw_shapes(PAGE.read_text(encoding="utf-8")),
        }
        for name, figure in figures.items():
            path = args.output / f"question_{name}.png"
            save(figure, path)
            print(path)


if __name__ == "__main__":
    main()
