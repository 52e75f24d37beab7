"""Tables of the cells that are finished."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmarks.few_label.arms import REFERENCE
from benchmarks.few_label.data import run_name
from benchmarks.few_label.plots import by_arm, plot_curves, plot_fractions
from benchmarks.few_label.settings import Benchmark
from detectron2_agssp.io.files import atomic_write

CONFIDENCE = 0.95
METRICS = ("AP", "AP50")


def read_cells(results: str | Path) -> list[dict]:
    """The finished cells of a benchmark, in order of their names."""
    return _read(Path(results) / "cells")


def run_of(output: str | Path, cell: dict) -> Path:
    """The folder of a finished cell's fine-tuning."""
    keys = ("arm", "fraction", "draw", "seed", "learning_rate")
    return Path(output) / "runs" / run_name(*(cell[key] for key in keys))


def read_candidates(results: str | Path) -> list[dict]:
    """The learning rates that were tried, in order of their names."""
    return _read(Path(results) / "candidates")


def _read(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def write_report(benchmark: Benchmark, results: str | Path) -> str:
    """Writes ``table.md``, ``plot.png`` and ``curves.png`` beside the cells; returns the table."""
    results = Path(results)
    cells = read_cells(results)
    candidates = read_candidates(results)
    titles = titles_of(benchmark, [*cells, *candidates])
    text = report_text(benchmark, cells, candidates)
    with atomic_write(results / "table.md") as file:
        file.write(text)
    if cells:
        plot_fractions(cells, titles, results / "plot.png")
        plot_curves(cells, titles, results / "curves.png")
    return text


def report_text(benchmark: Benchmark, cells: list[dict], candidates: list[dict]) -> str:
    """Markdown: a table a fraction, one line an arm, and AP by class; then, on the validation
    images, the learning rates of every arm that were tried."""
    titles = titles_of(benchmark, [*cells, *candidates])
    parts = [f"# {benchmark.name}\n"]
    machines = sorted({run["machine"].split(", ", 1)[1] for run in (*cells, *candidates)})
    if machines:
        parts.append("Measured on " + "; ".join(machines) + ".\n")
    for fraction in sorted({cell["fraction"] for cell in cells}):
        fraction_cells = [cell for cell in cells if cell["fraction"] == fraction]
        images = sorted({cell["labeled_images"] for cell in fraction_cells})
        parts.append(f"## {fraction:g} % of the labels ({' or '.join(map(str, images))} images)\n")
        parts.append(_summary_table(fraction_cells, titles))
        parts.append("AP by class:\n")
        parts.append(_class_table(fraction_cells, titles))
    if not cells:
        parts.append("No cell is finished yet.\n")
    if candidates:
        parts.append("## On the validation images, first draw and seed\n")
        parts.append(_candidate_table(candidates, titles))
    return "\n".join(parts)


def titles_of(benchmark: Benchmark, results: list[dict]) -> dict[str, str]:
    """Every arm's title, in the order of tables; arms that the file does not have any more come
    last, under their names."""
    titles = benchmark.titles()
    left = sorted({run["arm"] for run in results} - set(titles))
    return {**titles, **{arm: arm for arm in left}}


def short_table(benchmark: Benchmark, cells: list[dict], arms: Collection[str] = ()) -> str:
    """Markdown for other documents: AP and AP50 of each start, or of those among ``arms``, and what
    it gains over ImageNet, in bold where the interval lies above zero."""
    rows, titles = [], titles_of(benchmark, cells)
    fractions = sorted({cell["fraction"] for cell in cells})
    for fraction in fractions:
        fraction_cells = [cell for cell in cells if cell["fraction"] == fraction]
        images = sorted({cell["labeled_images"] for cell in fraction_cells})
        labels = f"{fraction:g} % ({' or '.join(map(str, images))} images)"
        groups = by_arm(fraction_cells, titles)
        for arm, arm_cells in groups.items():
            if arms and arm not in arms:
                continue
            figures = [_mean_and_spread(arm_cells, metric) for metric in METRICS]
            figures += [_difference(groups, arm, metric, bold=True) for metric in METRICS]
            rows.append([labels, titles[arm], *figures])
            labels = ""
    headers = ["labels", "start", *METRICS, *(f"{metric} - ImageNet" for metric in METRICS)]
    return f"{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n"


def paired_difference(values: dict, reference: dict) -> tuple[float, float | None, int]:
    """Mean of the differences of what both have, half its 95 % confidence interval, and how many.

    Args:
        values, reference: (draw, seed) -> figure.

    Returns:
        mean (NaN without pairs), half width of Student's t interval (None of fewer than two), and
        the number of pairs.
    """
    differences = np.array([values[key] - reference[key] for key in values if key in reference])
    count = len(differences)
    if count == 0:
        return float("nan"), None, 0
    if count == 1:
        return float(differences[0]), None, 1
    error = differences.std(ddof=1) / np.sqrt(count)
    width = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * error
    return float(differences.mean()), float(width), count


def _summary_table(cells: list[dict], titles: dict[str, str]) -> str:
    groups = by_arm(cells, titles)
    rows = []
    for arm, arm_cells in groups.items():
        row = [titles[arm], len(arm_cells)]
        row += [_mean_and_spread(arm_cells, metric) for metric in METRICS]
        row += [_difference(groups, arm, metric) for metric in METRICS]
        validated = [cell["validation"]["AP"] for cell in arm_cells]
        row.append(f"{np.mean(validated):.1f}")
        rates = sorted({cell["learning_rate"] for cell in arm_cells})
        row += [", ".join(f"{rate:g}" for rate in rates), arm_cells[0]["iterations"]]
        rows.append(row)
    difference = [f"{metric} - ImageNet" for metric in METRICS]
    headers = ["start", "cells", "AP", "AP50", *difference, "validation AP", "rate", "its"]
    note = (
        "Mean ± standard deviation over draws and seeds; differences are paired, with their 95 % "
        "interval. Variants are to be chosen by the AP on validation images.\n"
    )
    return f"{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n\n{note}"


def _mean_and_spread(cells: list[dict], metric: str) -> str:
    values = [cell["test"][metric] for cell in cells]
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def _difference(groups: dict, arm: str, metric: str, bold: bool = False) -> str:
    """The arm's gain over the reference, "" for that itself; bold where it is above zero for
    sure."""
    values, reference = (
        {(cell["draw"], cell["seed"]): cell["test"][metric] for cell in groups.get(name, ())}
        for name in (arm, REFERENCE)
    )
    mean, width, count = paired_difference(values, reference)
    if count == 0 or arm == REFERENCE:
        return ""
    text = f"{mean:+.1f}" if width is None else f"{mean:+.1f} ± {width:.1f}"
    return f"**{text}**" if bold and width is not None and mean > width else text


def _class_table(cells: list[dict], titles: dict[str, str]) -> str:
    names = list(next((c["test"]["classes"] for c in cells if "classes" in c["test"]), {}))
    rows = []
    for arm, arm_cells in by_arm(cells, titles).items():
        tested = [cell["test"].get("classes", dict.fromkeys(names, 0.0)) for cell in arm_cells]
        rows.append(
            [titles[arm], *(f"{np.mean([figures[n] for figures in tested]):.1f}" for n in names)]
        )
    table = tabulate(rows, ["start", *names], tablefmt="github", disable_numparse=True)
    return f"{table}\n"


def _candidate_table(candidates: list[dict], titles: dict[str, str]) -> str:
    rows = [
        [f"{run['fraction']:g} %", title, f"{run['learning_rate']:g}"]
        + [f"{run['validation'][metric]:.1f}" for metric in METRICS]
        for fraction in sorted({run["fraction"] for run in candidates})
        for arm, title in titles.items()
        for run in sorted(candidates, key=lambda run: run["learning_rate"])
        if (run["arm"], run["fraction"]) == (arm, fraction)
    ]
    headers = ["labels", "start", "rate", "AP", "AP50"]
    return f"{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n"
