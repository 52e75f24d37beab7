"""Panels of anomaly maps and boxes, and the HTML report that shows them. NumPy and OpenCV only."""

from detectron2_agssp.visualization.panels import (
    anomaly_panel,
    colorize,
    draw_boxes,
    draw_mask,
    message_tile,
    overlay,
    panel_row,
    stack_rows,
)

__all__ = [
    "anomaly_panel",
    "colorize",
    "draw_boxes",
    "draw_mask",
    "message_tile",
    "overlay",
    "panel_row",
    "stack_rows",
]
