"""Tables of the cells that are finished."""

import json
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmarks.few_label.arms import REFERENCE
from benchmarks.few_label.plots import by_arm, plot_curves, plot_fractions
from benchmarks.few_label.settings import Benchmark
from detectron2_agssp.io.files import atomic_write

CONFIDENCE = 0.95


def read_cells(results: str | Path) -> list[dict]:
    """The finished cells of a benchmark, in order of their names."""
    return _read(Path(results) / "cells")


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
    machines = sorted({one["machine"].split(", ", 1)[1] for one in (*cells, *candidates)})
    if machines:
        parts.append("Measured on " + "; ".join(machines) + ".\n")
    for fraction in sorted({cell["fraction"] for cell in cells}):
        of_fraction = [cell for cell in cells if cell["fraction"] == fraction]
        images = sorted({cell["labeled_images"] for cell in of_fraction})
        parts.append(f"## {fraction:g} % of the labels ({' or '.join(map(str, images))} images)\n")
        parts.append(_summary_table(of_fraction, titles))
        parts.append("AP by class:\n")
        parts.append(_class_table(of_fraction, titles))
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
    left = sorted({one["arm"] for one in results} - set(titles))
    return {**titles, **{arm: arm for arm in left}}


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
    for arm, of_arm in groups.items():
        row = [titles[arm], len(of_arm)]
        for metric in ("AP", "AP50"):
            values = [cell["test"][metric] for cell in of_arm]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            row.append(f"{np.mean(values):.1f}{spread}")
        for metric in ("AP", "AP50"):
            row.append("" if arm == REFERENCE else _difference(groups, arm, metric))
        validated = [cell["validation"]["AP"] for cell in of_arm]
        row.append(f"{np.mean(validated):.1f}")
        rates = sorted({cell["learning_rate"] for cell in of_arm})
        row += [", ".join(f"{rate:g}" for rate in rates), of_arm[0]["iterations"]]
        rows.append(row)
    difference = [f"{metric} - ImageNet" for metric in ("AP", "AP50")]
    headers = ["start", "cells", "AP", "AP50", *difference, "validation AP", "rate", "its"]
    note = (
        "Mean ± standard deviation over draws and seeds; differences are paired, with their 95 % "
        "interval. Variants are to be chosen by the AP on validation images.\n"
    )
    return f"{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n\n{note}"


def _difference(groups: dict, arm: str, metric: str) -> str:
    values, reference = (
        {(cell["draw"], cell["seed"]): cell["test"][metric] for cell in groups.get(name, ())}
        for name in (arm, REFERENCE)
    )
    mean, width, count = paired_difference(values, reference)
    if count == 0:
        return ""
    return f"{mean:+.1f}" if width is None else f"{mean:+.1f} ± {width:.1f}"


def _class_table(cells: list[dict], titles: dict[str, str]) -> str:
    names = list(next((c["test"]["classes"] for c in cells if "classes" in c["test"]), {}))
    rows = []
    for arm, of_arm in by_arm(cells, titles).items():
        tested = [cell["test"].get("classes", dict.fromkeys(names, 0.0)) for cell in of_arm]
        rows.append([titles[arm], *(f"{np.mean([one[n] for one in tested]):.1f}" for n in names)])
    table = tabulate(rows, ["start", *names], tablefmt="github", disable_numparse=True)
    return f"{table}\n"


def _candidate_table(candidates: list[dict], titles: dict[str, str]) -> str:
    rows = [
        [f"{one['fraction']:g} %", title, f"{one['learning_rate']:g}"]
        + [f"{one['validation'][metric]:.1f}" for metric in ("AP", "AP50")]
        for fraction in sorted({one["fraction"] for one in candidates})
        for arm, title in titles.items()
        for one in sorted(candidates, key=lambda one: one["learning_rate"])
        if (one["arm"], one["fraction"]) == (arm, fraction)
    ]
    headers = ["labels", "start", "rate", "AP", "AP50"]
    return f"{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n"
