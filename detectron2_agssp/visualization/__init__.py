"""Panels of anomaly maps and boxes, and the HTML report that shows them. NumPy and OpenCV only."""

from .panels import (
    anomaly_panel,
    colorize,
    draw_boxes,
    draw_mask,
    message_tile,
    overlay,
    panel_row,
    stack_rows,
)
from .report import HtmlReport

__all__ = [
    "HtmlReport",
    "anomaly_panel",
    "colorize",
    "draw_boxes",
    "draw_mask",
    "message_tile",
    "overlay",
    "panel_row",
    "stack_rows",
]
