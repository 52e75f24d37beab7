"""Tables of the cells that are finished."""

import json
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from detectron2_agssp.few_label.arms import REFERENCE
from detectron2_agssp.few_label.plots import by_arm, plot_curves, plot_fractions
from detectron2_agssp.few_label.settings import Benchmark
from detectron2_agssp.utils.files import atomic_write

CONFIDENCE = 0.95


def read_cells(results: str | Path) -> list[dict]:
    """The finished cells of a benchmark, in order of their names."""
    paths = sorted((Path(results) / "cells").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def write_report(benchmark: Benchmark, results: str | Path) -> str:
    """Writes ``table.md``, ``plot.png`` and ``curves.png`` beside the cells; returns the table."""
    results = Path(results)
    cells = read_cells(results)
    text = report_text(benchmark, cells)
    with atomic_write(results / "table.md") as file:
        file.write(text)
    if cells:
        plot_fractions(cells, benchmark.titles(), results / "plot.png")
        plot_curves(cells, benchmark.titles(), results / "curves.png")
    return text


def report_text(benchmark: Benchmark, cells: list[dict]) -> str:
    """Markdown: a table a fraction, one line an arm, and AP by class."""
    parts = [f"# {benchmark.name}\n"]
    machines = sorted({cell["machine"].split(", ", 1)[1] for cell in cells})
    if machines:
        parts.append("Measured on " + "; ".join(machines) + ".\n")
    for fraction in sorted({cell["fraction"] for cell in cells}):
        of_fraction = [cell for cell in cells if cell["fraction"] == fraction]
        images = sorted({cell["labeled_images"] for cell in of_fraction})
        parts.append(f"## {fraction:g} % of the labels ({' or '.join(map(str, images))} images)\n")
        parts.append(_summary_table(of_fraction, benchmark.titles()))
        parts.append("AP by class:\n")
        parts.append(_class_table(of_fraction, benchmark.titles()))
    if not cells:
        parts.append("No cell is finished yet.\n")
    return "\n".join(parts)


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
