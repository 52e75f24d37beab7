"""Figures of a page: matplotlib drawings as inline SVG, in the page's light or dark scheme.

Each function returns Markup, or empty Markup where there is nothing to draw.
"""

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from detectron2_agssp.visualization.text import printable

WIDTH = 5.6  # inches of 72 units; the page scales it

_INK = "#010203"  # becomes the page's own text colour
_LONGEST = 40  # letters of a name
_STYLE = {
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,  # a file name may hold two dollar signs
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.prop_cycle": matplotlib.cycler(
        color=["#2b7bba", "#d9641c", "#2a9d78", "#b0559a", "#99852a", "#7b8794"]
    ),
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": "#80808050",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "detectron2_agssp",  # the same figure gives the same bytes
}


@contextlib.contextmanager
def page_style() -> Iterator[None]:
    """The look of a page's figures, for what is drawn and rendered inside."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser has letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def bars(labels: Sequence[str], values: Sequence[float], *, x_label: str = "") -> Markup:
    """Horizontal bars from zero, the first on top, each with its value; NaN has none."""
    if len(labels) != len(values):
        raise ValueError(f"As many labels as values are expected, got {len(labels)}, {len(values)}")
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    if not np.isfinite(numbers).any():
        return Markup()
    with page_style():
        figure = _figure(0.5 + 0.3 * len(labels))
        axes = figure.subplots()
        drawn = axes.barh(range(len(labels)), numbers)
        texts = [_figure_of(number) if np.isfinite(number) else "" for number in numbers]
        axes.bar_label(drawn, texts, padding=3)
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(printable(x_label))
        return to_svg(figure, f"Bars: {', '.join(map(str, labels))}")


def _figure_of(number: float) -> str:
    """Three digits, and a count in full: 0.0123, 45.6, 1,240."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def histograms(
    rows: Mapping[str, Sequence[float]],
    edges: Sequence[float],
    *,
    x_label: str = "",
    marker: tuple[str, float] | None = None,
) -> Markup:
    """Histograms below one another on one axis, to compare their shapes.

    Args:
        rows: name -> B counts. Each is drawn to its own height, under its name and its total; a
            single one has an axis of counts instead.
        edges: B + 1 increasing bin limits, common to all.
        x_label: what the values are, with their unit.
        marker: name and value of a vertical line, such as a threshold.
    """
    limits = np.asarray(edges, np.float64)
    for counts in rows.values():
        if limits.shape != (len(counts) + 1,) or not (np.diff(limits) > 0).all():
            raise ValueError(
                f"{len(counts)} counts expect {len(counts) + 1} increasing edges, got {edges!r}"
            )
    if not rows:
        return Markup()
    single = len(rows) == 1
    with page_style():
        figure = _figure(2.4 if single else 0.6 + 0.62 * len(rows))
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, counts) in zip(panels, rows.items(), strict=True):
            axes.stairs(counts, limits, fill=True)
            axes.set_ylim(0, max(np.max(counts), 1) * 1.05)
            if single:
                axes.set_ylabel("images")
                axes.locator_params(axis="y", integer=True)
                axes.grid(axis="y")
            else:
                axes.set_title(f"{_short(name)}: {np.sum(counts):,.0f}", pad=2)
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
            if marker is not None:
                axes.axvline(marker[1], color=_INK, linestyle="--", linewidth=1)
        if marker is not None:
            right = marker[1] > (limits[0] + limits[-1]) / 2
            panels[0].annotate(
                f"{printable(marker[0])} {marker[1]:.3f}",
                (marker[1], 1),
                xytext=(-4 if right else 4, -2),
                textcoords="offset points",
                xycoords=("data", "axes fraction"),
                ha="right" if right else "left",
                va="top",
            )
        panels[-1].set_xlabel(printable(x_label))
        return to_svg(figure, f"Histograms: {', '.join(map(str, rows))}")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "",
    y_label: str = "",
) -> Markup:
    """Lines over a common axis.

    Args:
        series: name -> (x, y), two sequences of one length; NaN interrupts the line.
        x_label, y_label: what the values are, with their unit.
    """
    if not any(np.isfinite(np.asarray(y, np.float64)).any() for _, y in series.values()):
        return Markup()
    with page_style():
        figure = _figure(2.6)
        axes = figure.subplots()
        for name, (x, y) in series.items():
            axes.plot(x, y, label=_short(name), marker="." if len(x) <= 40 else None)
        axes.grid(axis="y")
        axes.set_xlabel(printable(x_label))
        axes.set_ylabel(printable(y_label))
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, f"Lines: {', '.join(map(str, series))}")


def to_svg(figure: Figure, description: str) -> Markup:
    """A matplotlib figure as an ``<svg>`` element.

    Args:
        figure: drawn inside :func:`page_style`, and rendered inside it too.
        description: what a screen reader says instead.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(_INK, "currentColor")
    # Several figures share a page: their ids must differ.
    prefix = hashlib.sha1(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{prefix}-", text)
    box = re.search(r'viewBox="([^"]*)"', text)[1]
    label = escape(printable(description))
    return Markup(
        f'<svg role="img" aria-label="{label}" viewBox="{box}">{text[text.index(">") + 1 :]}'
    )


def _figure(height: float) -> Figure:
    # Without pyplot, which would choose a display.
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _short(name: str) -> str:
    name = printable(str(name))
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
