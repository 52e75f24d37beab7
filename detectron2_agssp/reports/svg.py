"""Elements that the charts are drawn with: axes, grids, text and legends.

Pixels are those of the drawing, 720 wide, which scales with the page. Colours, strokes and fonts
are classes of the report's style sheet, so that they follow the light or dark scheme.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detectron2_agssp.reports.markup import escape

__all__ = [
    "LETTER",
    "WIDTH",
    "Axis",
    "draw_grid",
    "draw_legend",
    "draw_line",
    "draw_text",
    "draw_ticks",
    "round_limits",
    "series_class",
    "spread",
    "wrap",
]

WIDTH = 720  # px
LETTER = 7.0  # px, mean width of a letter at the charts' font size of 13 px

_COLORS = 6  # series colours in the style sheet


@dataclass(frozen=True)
class Axis:
    """Maps values [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """About five round values inside the axis, with their labels."""
        step = _round_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(i * step, _tick_label(i * step, step)) for i in range(first, last + 1)]


def wrap(parts: Iterable[str], height: float, description: str) -> str:
    """The drawing as a whole; ``description`` is what a screen reader says instead."""
    return (
        f'<div class="scroll chart" role="region" tabindex="0" aria-label="Chart">'
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:.0f}" aria-label="{escape(description)}">\n'
        + "\n".join(parts)
        + "\n</svg></div>"
    )


def series_class(index: int) -> str:
    """Classes of the series at ``index``; beyond six the colours repeat, dashed."""
    return f"s{index % _COLORS}{' dashed' if index >= _COLORS else ''}"


def draw_text(
    x: float, y: float, text: str, anchor: str, style: str = "", longest: int | None = None
) -> str:
    """Text with its base line at y; beyond ``longest`` letters it is cut, whole as a tooltip."""
    tooltip = ""
    if longest is not None and len(text) > longest:
        text, tooltip = text[: longest - 1].rstrip() + "…", f"<title>{escape(text)}</title>"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
        f"{tooltip}{escape(text)}</text>"
    )


def draw_line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def draw_grid(y_axis: Axis, left: float, right: float) -> str:
    """Horizontal lines at the ticks of a vertical axis, labelled on their left."""
    parts = []
    for value, label in y_axis.ticks():
        y = y_axis(value)
        parts.append(draw_line(left, y, right, y, "grid"))
        parts.append(draw_text(left - 8, y + 4.5, label, "end"))
    return "".join(parts)


def draw_ticks(x_axis: Axis, bottom: float, label: str, grid_top: float | None = None) -> str:
    """Ticks below a horizontal axis and its label; from ``grid_top`` on, vertical grid lines."""
    parts = []
    for value, text in x_axis.ticks():
        x = x_axis(value)
        if grid_top is not None:
            parts.append(draw_line(x, grid_top, x, bottom, "grid"))
        parts.append(draw_line(x, bottom, x, bottom + 4, "axis"))
        parts.append(draw_text(x, bottom + 18, text, "middle"))
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(draw_text(middle, bottom + 37, label, "middle", "label") if label else "")
    return "".join(parts)


def draw_legend(names: Sequence[str]) -> str:
    """A list of colour keys; nothing for a single series, which the caption names."""
    if len(names) < 2:
        return ""
    entries = "".join(
        '<li><svg class="key" viewBox="0 0 20 10" aria-hidden="true">'
        f'<line class="line {series_class(index)}" x1="0" y1="5" x2="20" y2="5"/></svg>'
        f"{escape(name)}</li>"
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{entries}</ul>'


def spread(low: float, high: float) -> tuple[float, float]:
    """The two limits, moved apart where they are equal up to rounding."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return float(low), float(high)
    margin = 0.5 * abs(low) or 0.5
    return float(low) - margin, float(high) + margin


def _round_step(span: float) -> float:
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def round_limits(low: float, high: float) -> tuple[float, float]:
    """The nearest tick values outside [low, high]."""
    low, high = spread(low, high)
    step = _round_step(high - low)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _tick_label(value: float, step: float) -> str:
    if abs(value) >= 1e7 or step < 1e-4:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"
