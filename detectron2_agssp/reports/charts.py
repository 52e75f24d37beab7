"""Bar charts, histograms and line charts as inline SVG, coloured by the report's style sheet.

Each function returns HTML, or "" where there is nothing to draw.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from detectron2_agssp.reports.markup import MISSING, escape, format_number
from detectron2_agssp.reports.svg import (
    LETTER,
    WIDTH,
    Axis,
    draw_grid,
    draw_legend,
    draw_line,
    draw_text,
    draw_ticks,
    round_limits,
    series_class,
    spread,
    wrap,
)

__all__ = ["bar_chart", "histogram", "histogram_rows", "line_chart"]

_HEIGHT = 300  # px, of histograms and line charts
_LEFT, _RIGHT = 64, WIDTH - 28  # their plot area
_ROW = 44  # px, of one histogram among several
_LONGEST_LABEL = 28  # letters


def bar_chart(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    x_label: str = "",
    decimals: int = 3,
) -> str:
    """Horizontal bars, one group a label; see :meth:`HtmlReport.add_bar_chart`."""
    columns = {name: [_number(value) for value in values] for name, values in series.items()}
    for name, values in columns.items():
        if len(values) != len(labels):
            raise ValueError(
                f"series {name!r} has {len(values)} values, {len(labels)} labels expect as many"
            )
    finite = [v for values in columns.values() for v in values if math.isfinite(v)]
    if not finite:
        return ""
    bar, gap = 16, 12
    group = bar * len(columns) + gap
    left = 16 + LETTER * min(_LONGEST_LABEL, max(len(str(label)) for label in labels))
    bottom = 8 + group * len(labels)
    # Room for the value written at the end of the longest bar, on either side.
    room = 12 + LETTER * max(len(format_number(v, decimals)) for v in finite)
    low, high = min(0.0, *finite), max(0.0, *finite)
    low, high = round_limits(low, high if high > low else 1.0)
    axis = Axis(low, high, left + (room if low < 0 else 0), WIDTH - room)

    parts = [draw_ticks(axis, bottom, x_label, grid_top=8)]
    for row, label in enumerate(labels):
        top = 8 + gap / 2 + group * row
        middle = top + bar * len(columns) / 2
        parts.append(draw_text(left - 8, middle + 4, str(label), "end", "label", _LONGEST_LABEL))
        for index, (name, values) in enumerate(columns.items()):
            value, y = values[row], top + bar * index
            x, text, anchor = axis(0), MISSING, "start"
            if math.isfinite(value):
                x, text = axis(value), format_number(value, decimals)
                start, length = min(axis(0), x), abs(x - axis(0))
                hint = escape(f"{label}, {name}: {text}" if name else f"{label}: {text}")
                parts.append(
                    f'<rect class="{series_class(index)}" x="{start:.1f}" y="{y + 1:.1f}" '
                    f'width="{length:.1f}" height="{bar - 2}"><title>{hint}</title></rect>'
                )
                anchor = "end" if value < 0 else "start"
            parts.append(draw_text(x + (6 if anchor == "start" else -6), y + 12.5, text, anchor))
    parts.append(draw_line(axis(0), 8, axis(0), bottom, "axis"))
    height = bottom + (44 if x_label else 26)
    summary = f"Bar chart: {', '.join(str(label) for label in labels)}"
    return draw_legend(list(columns)) + wrap(parts, height, summary)


def histogram(
    values: Sequence[float],
    *,
    bins: int = 30,
    edges: Sequence[float] | None = None,
    x_label: str = "",
    markers: Mapping[str, float] | None = None,
) -> str:
    """Bars of counts; see :meth:`HtmlReport.add_histogram`."""
    numbers = np.asarray(values, np.float64).ravel()
    if edges is not None:
        counts, limits = _counts(values, edges)
    else:
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size == 0:
            return ""
        counts, limits = np.histogram(numbers, bins, spread(numbers.min(), numbers.max()))
    if counts.size == 0:
        return ""
    marked = _finite_markers(markers)
    x_axis = Axis(
        min([limits[0], *marked.values()]), max([limits[-1], *marked.values()]), _LEFT, _RIGHT
    )
    top = 14 + 18 * len(marked)
    y_axis = Axis(*round_limits(0, max(counts.max(), 1)), _HEIGHT - 44, top)

    parts = [draw_grid(y_axis, _LEFT, _RIGHT), draw_ticks(x_axis, y_axis.start, x_label)]
    parts.extend(_draw_bars(counts, limits, x_axis, y_axis))
    parts.extend(_draw_markers(marked, x_axis, y_axis.start))
    parts.append(draw_line(_LEFT, y_axis.start, _RIGHT, y_axis.start, "axis"))
    total = f"{counts.sum():,.0f} values from {format_number(limits[0])}"
    return wrap(parts, _HEIGHT, f"Histogram of {total} to {format_number(limits[-1])}")


def histogram_rows(
    rows: Mapping[str, Sequence[float]],
    edges: Sequence[float],
    *,
    x_label: str = "",
    markers: Mapping[str, float] | None = None,
) -> str:
    """Histograms below one another; see :meth:`HtmlReport.add_histogram_rows`."""
    counted = {name: _counts(values, edges) for name, values in rows.items()}
    if not counted:
        return ""
    limits = next(iter(counted.values()))[1]
    marked = _finite_markers(markers)
    totals = [f"{counts.sum():,.0f}" for counts, _ in counted.values()]
    left = 16 + LETTER * min(_LONGEST_LABEL, max(len(str(name)) for name in counted))
    right = WIDTH - 16 - LETTER * max(len(total) for total in totals)
    x_axis = Axis(
        min([limits[0], *marked.values()]), max([limits[-1], *marked.values()]), left, right
    )
    top = 8 + 18 * len(marked)
    bottom = top + _ROW * len(counted)

    parts = [draw_ticks(x_axis, bottom, x_label, grid_top=top)]
    for row, ((name, (counts, _)), total) in enumerate(zip(counted.items(), totals, strict=True)):
        base = top + _ROW * (row + 1)
        # Each to its own height: the shapes are compared, the totals are written.
        y_axis = Axis(0, max(counts.max(), 1), base, base - _ROW + 8)
        parts.append(draw_text(left - 8, base - 6, str(name), "end", "label", _LONGEST_LABEL))
        parts.extend(_draw_bars(counts, limits, x_axis, y_axis))
        parts.append(draw_text(right + 8, base - 6, total, "start"))
        parts.append(draw_line(left, base, right, base, "axis"))
    parts.extend(_draw_markers(marked, x_axis, bottom))
    summary = f"Histograms of {', '.join(str(name) for name in counted)}"
    return wrap(parts, bottom + (44 if x_label else 26), summary)


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Lines over a common x axis; see :meth:`HtmlReport.add_line_chart`."""
    lines = {}
    for name, (x, y) in series.items():
        xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if xs.ndim != 1 or xs.shape != ys.shape:
            raise ValueError(
                f"series {name!r} must be x and y of one length, got shapes {xs.shape}, {ys.shape}"
            )
        lines[name] = xs, ys, np.isfinite(xs) & np.isfinite(ys)
    points = [(xs[known], ys[known]) for xs, ys, known in lines.values() if known.any()]
    if not points:
        return ""
    all_x, all_y = (np.concatenate(values) for values in zip(*points, strict=True))
    top = 30 if y_label else 14
    x_axis = Axis(*spread(all_x.min(), all_x.max()), _LEFT, _RIGHT)
    y_axis = Axis(*round_limits(*spread(all_y.min(), all_y.max())), _HEIGHT - 44, top)

    parts = [draw_grid(y_axis, _LEFT, _RIGHT), draw_ticks(x_axis, y_axis.start, x_label)]
    parts.append(draw_line(_LEFT, y_axis.start, _RIGHT, y_axis.start, "axis"))
    if y_label:
        parts.append(draw_text(8, 15, y_label, "start", "label"))
    for index, (name, (xs, ys, known)) in enumerate(lines.items()):
        style = series_class(index)
        # A value that is not a number interrupts its line.
        gaps = np.flatnonzero(~known)
        for run in np.split(np.arange(len(xs)), gaps):
            run = run[known[run]]
            path = " ".join(f"{x_axis(xs[i]):.1f},{y_axis(ys[i]):.1f}" for i in run)
            if len(run) > 1:
                parts.append(f'<polyline class="line {style}" points="{path}"/>')
        if known.sum() <= 40:
            for x, y in zip(xs[known], ys[known], strict=True):
                hint = escape(f"{name}: {format_number(x)}, {format_number(y)}")
                parts.append(
                    f'<circle class="{style}" cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="3">'
                    f"<title>{hint}</title></circle>"
                )
    summary = f"Line chart of {', '.join(str(name) for name in lines)}"
    return draw_legend(list(lines)) + wrap(parts, _HEIGHT, summary)


def _counts(counts, edges) -> tuple[np.ndarray, np.ndarray]:
    """Counts (B,) and their bin limits (B + 1,), checked."""
    counts, limits = np.asarray(counts, np.float64).ravel(), np.asarray(edges, np.float64)
    if limits.shape != (counts.size + 1,) or not (np.diff(limits) > 0).all():
        raise ValueError(
            f"{counts.size} counts expect {counts.size + 1} increasing edges, got {edges!r}"
        )
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError(f"counts must be finite and not negative, got {counts!r}")
    return counts, limits


def _finite_markers(markers: Mapping[str, float] | None) -> dict[str, float]:
    marked = {name: _number(value) for name, value in (markers or {}).items()}
    return {name: value for name, value in marked.items() if math.isfinite(value)}


def _draw_bars(counts, limits, x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    for count, start, end in zip(counts, limits[:-1], limits[1:], strict=True):
        x1, x2, y = x_axis(start), x_axis(end), y_axis(count)
        hint = f"{format_number(start)} to {format_number(end)}: {count:,.0f}"
        yield (
            f'<rect class="s0" x="{x1:.2f}" y="{y:.2f}" width="{max(x2 - x1 - 0.6, 0.4):.2f}" '
            f'height="{y_axis.start - y:.2f}"><title>{hint}</title></rect>'
        )


def _draw_markers(marked: Mapping[str, float], x_axis: Axis, bottom: float) -> Iterator[str]:
    """Vertical lines down to ``bottom``, their names above one another at the top."""
    for index, (name, value) in enumerate(marked.items()):
        x = x_axis(value)
        yield draw_line(x, 8 + 18 * index, x, bottom, "marker")
        side, shift = ("end", -6) if x > WIDTH * 0.6 else ("start", 6)
        yield draw_text(x + shift, 18 + 18 * index, f"{name} {format_number(value)}", side)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
