"""The table and the plot, from made cells."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks.few_label import plots
from benchmarks.few_label.results import (
    paired_difference,
    read_cells,
    report_text,
    write_report,
)

AP = {"imagenet": [10.0, 14.0, 12.0], "agssp": [15.0, 16.0, 20.0], "random": [1.0]}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "cells").mkdir(parents=True)
    for arm, values in AP.items():
        for draw, value in enumerate(values):
            cell = {
                "arm": arm,
                "fraction": 10,
                "draw": draw,
                "seed": 1,
                "labeled_images": 12,
                "learning_rate": 0.01,
                "iterations": 50,
                "curve": [[25, value / 2, value], [50, value - 1, 2 * value]],
                "machine": "2026-01-01, a processor, 2 threads",
                "validation": {"AP": value - 1},
                "test": {"AP": value, "AP50": 2 * value, "classes": {"crack": value + 1}},
            }
            (folder / "cells" / f"{arm}_{draw}.json").write_text(json.dumps(cell))
    return folder


def row(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} "))
    return [part.strip() for part in line.strip("|").split("|")]


def test_means_deviations_and_paired_differences(write_benchmark, results):
    text = report_text(write_benchmark(), read_cells(results), [])
    interval = stats.ttest_rel(AP["agssp"], AP["imagenet"]).confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    cells = row(text, "AGSSP")
    assert cells[1:3] == ["3", f"17.0 ± {np.std(AP['agssp'], ddof=1):.1f}"]
    assert cells[4] == f"+5.0 ± {half:.1f}"
    assert cells[5] == f"+10.0 ± {2 * half:.1f}"
    assert cells[6] == "16.0"
    assert row(text, "ImageNet")[4:6] == ["", ""]
    # A single pair has no interval.
    assert row(text, "random")[4] == "-9.0"
    assert "10 % of the labels (12 images)" in text
    assert "a processor" in text


def test_arms_that_left_the_file_are_listed_last(write_benchmark, results):
    cell = json.loads((results / "cells" / "agssp_0.json").read_text())
    text = report_text(write_benchmark(), [*read_cells(results), {**cell, "arm": "typed"}], [])
    assert row(text, "typed")[1] == "1"
    assert text.index("| typed ") > text.index("| AGSSP ")


def test_only_pairs_count():
    assert paired_difference({1: 5.0, 2: 9.0}, {1: 4.0}) == (1.0, None, 1)
    mean, width, count = paired_difference({1: 5.0}, {})
    assert np.isnan(mean)
    assert (width, count) == (None, 0)


def test_files_are_written_and_the_same_each_time(write_benchmark, results):
    write_report(write_benchmark(), results)
    plots = [results / "plot.png", results / "curves.png"]
    first = [path.read_bytes() for path in plots]
    for path in plots:
        assert np.asarray(Image.open(path)).std() > 1
    write_report(write_benchmark(), results)
    assert [path.read_bytes() for path in plots] == first
    assert "ImageNet" in (results / "table.md").read_text()


def test_no_cell_yet(write_benchmark, tmp_path):
    assert "No cell is finished yet" in write_report(write_benchmark(), tmp_path)
    assert not (tmp_path / "plot.png").exists()


@pytest.mark.parametrize("plot", [plots.plot_curves, plots.plot_fractions])
def test_an_arm_has_one_colour_in_all_panels(plot, monkeypatch, tmp_path):
    """Also where a panel lacks the arms before it; and all of them are in the legend."""
    arms = {"random": (10,), "imagenet": (1, 10), "agssp": (1,)}
    cells = [
        {"arm": arm, "fraction": fraction, "test": {"AP": 2, "AP50": 4}, "curve": [[9, 1.0, 2.0]]}
        for arm, fractions in arms.items()
        for fraction in fractions
    ]
    titles = {"random": "random", "imagenet": "ImageNet", "agdp": "AGDP", "agssp": "AGSSP"}
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plot(cells, titles, tmp_path / "plot.png")
    monkeypatch.undo()
    (figure,) = figures
    plots._save(figure, tmp_path / "plot.png")
    colors = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            line = handle if hasattr(handle, "get_color") else handle.lines[0]
            colors.setdefault(label, set()).add(line.get_color())
    assert set(colors) == {"random", "ImageNet", "AGSSP"}
    assert all(len(of_arm) == 1 for of_arm in colors.values())
    assert len(set.union(*colors.values())) == 3
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(colors)


def test_no_two_arms_look_alike(monkeypatch, tmp_path):
    titles = {f"arm{index}": f"Arm {index}" for index in range(15)}
    cells = [{"arm": arm, "fraction": 1, "curve": [[9, 1.0, 2.0]]} for arm in titles]
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots.plot_curves(cells, titles, tmp_path / "curves.png")
    lines = figures[0].axes[0].get_lines()
    # A single point has no line to tell by.
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 15
