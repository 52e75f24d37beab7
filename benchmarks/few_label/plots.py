"""Plots of the cells that are finished."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from detectron2_agssp.io.files import atomic_path

# Widths of the lines: what the comparison is about stands out.
WIDTHS = defaultdict(lambda: 1.2, {"agssp": 2.5})
# Of the arms side by side, in the distance of two labelled shares; few stand close together.
SPREAD, MIN_SLOTS = 0.6, 10


def by_arm(cells: list[dict], titles: dict[str, str]) -> dict[str, list[dict]]:
    """The cells of each arm, in the order of ``titles``."""
    groups = defaultdict(list)
    for cell in cells:
        groups[cell["arm"]].append(cell)
    return {arm: groups[arm] for arm in titles if arm in groups}


def _styles(cells: list[dict], titles: dict[str, str]) -> dict[str, dict]:
    """Arm -> how its line is drawn, the same in every panel."""
    return {
        arm: {
            "label": titles[arm],
            "color": f"C{index % 10}",
            # After ten, colours come again.
            "linestyle": "-" if index < 10 else "--",
            "marker": "o" if index < 10 else "s",
            "linewidth": WIDTHS[arm],
        }
        for index, arm in enumerate(by_arm(cells, titles))
    }


def plot_fractions(cells: list[dict], titles: dict[str, str], path: str | Path) -> None:
    """AP and AP50 on the test images over the labelled share, one line an arm, with bars of one
    standard deviation.

    Args:
        cells: at least one.
        titles: arm -> its name in the legend.
        path: of the PNG file.
    """
    figure = _figure(2)
    arms, styles = by_arm(cells, titles), _styles(cells, titles)
    fractions = sorted({cell["fraction"] for cell in cells})
    for axes, metric in zip(figure.subplots(1, 2), ("AP", "AP50"), strict=True):
        for index, (arm, arm_cells) in enumerate(arms.items()):
            by_fraction = defaultdict(list)
            for cell in arm_cells:
                by_fraction[fractions.index(cell["fraction"])].append(cell["test"][metric])
            # Side by side, or bars of equal heights would hide each other.
            shift = SPREAD / max(len(arms), MIN_SLOTS) * (index - (len(arms) - 1) / 2)
            known = sorted(by_fraction)
            axes.errorbar(
                [position + shift for position in known],
                [np.mean(by_fraction[share]) for share in known],
                yerr=[_deviation(by_fraction[share]) for share in known],
                capsize=3,
                **styles[arm],
            )
        axes.set_xticks(range(len(fractions)), [f"{share:g}" for share in fractions])
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y", alpha=0.3)
        # Where one share ends and the next begins: the place within is the arm's.
        for boundary in range(1, len(fractions)):
            axes.axvline(boundary - 0.5, color="0.7", linewidth=0.8)
        axes.set_xlabel("labelled images, % of the training set")
        axes.set_ylabel(f"{metric}, %")
        axes.set_xlim(-0.5, len(fractions) - 0.5)
        # The highest point is not cut.
        axes.set_ylim(0, 1.03 * axes.get_ylim()[1])
    _save(figure, path)


def plot_curves(cells: list[dict], titles: dict[str, str], path: str | Path) -> None:
    """AP on the validation images over the iterations of fine-tuning, mean over draws and seeds;
    one panel a labelled share, one line an arm. Arguments as of :func:`plot_fractions`."""
    fractions = sorted({cell["fraction"] for cell in cells})
    figure, styles = _figure(len(fractions)), _styles(cells, titles)
    panels = figure.subplots(1, len(fractions), squeeze=False)[0]
    for axes, fraction in zip(panels, fractions, strict=True):
        fraction_cells = [cell for cell in cells if cell["fraction"] == fraction]
        for arm, arm_cells in by_arm(fraction_cells, titles).items():
            curve = defaultdict(list)
            for cell in arm_cells:
                for iteration, ap, _ in cell["curve"]:
                    curve[iteration].append(ap)
            iterations = sorted(curve)
            means = [np.mean(curve[step]) for step in iterations]
            axes.plot(iterations, means, **styles[arm])
        axes.grid(alpha=0.3)
        axes.set_title(f"{fraction:g} % of the labels")
        axes.set_xlabel("iterations of fine-tuning")
        axes.set_ylabel("AP on validation images, %")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    _save(figure, path)


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _figure(panels: int) -> Figure:
    # Without pyplot, which would choose a display.
    figure = Figure(figsize=(max(4.5 * panels, 9), 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    # A panel may lack some arms.
    lines = {}
    for axes in figure.axes:
        lines.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2)
    with atomic_path(path) as temporary:
        # Without the version in the file, the same cells give the same bytes.
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
