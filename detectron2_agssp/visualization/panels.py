"""Pictures of anomaly maps: one row of titled tiles per image, from arrays alone.

Shapes: H, W picture; h, w map or energy, on any grid; K boxes. Pictures are RGB (H, W, 3) or grey
(H, W), uint8; boxes are XYXY, absolute pixels of the picture.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from detectron2_agssp.visualization.checks import as_boxes, as_map, as_range, as_rgb
from detectron2_agssp.visualization.drawing import (
    DETECTION_COLOR,
    PSEUDO_BOX_COLOR,
    TRUTH_COLOR,
    draw_boxes,
    draw_mask,
)
from detectron2_agssp.visualization.text import fit_text, paint_text

NAN_COLOR = (128, 128, 128)  # the colour map goes from black over purple and orange to yellow

_PAPER = 255
_MOUNT = 232  # fills a cell around a tile that is very long or very narrow
_INK = (30, 34, 38)
_GAP = 6  # px between tiles and between rows
_TITLE_HEIGHT = 17  # px, one line
_WIDEST = 4.0  # width of a tile in units of its height
_NARROWEST = 0.5
_PANEL_WIDTH = 1400  # px; the tiles of a panel that would be wider go on in a second row


def colorize(
    anomaly_map: np.ndarray,
    height: int,
    width: int,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Paint a map in colours that get lighter with the value (inferno).

    Args:
        anomaly_map: (h, w) numbers; NaN is drawn grey, values outside the range are clipped.
        height, width: size of the result in pixels. Bilinear where the map is enlarged, area
            averages where it is reduced; NaN does not spread.
        value_range: (low, high); by default the smallest and largest finite value. A constant
            map then takes the lowest colour.

    Returns:
        (height, width, 3) RGB uint8.

    Raises:
        TypeError, ValueError: for a map that is not (h, w) numbers, a size below 1, or a range
            that is not finite with low < high.
    """
    return _paint(_unit_values(anomaly_map, height, width, value_range))


def overlay(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    alpha: float = 0.6,
    value_range: tuple[float, float] | None = (0, 1),
) -> np.ndarray:
    """Lay a map's colours over the picture, the more opaque the higher the value.

    Normal areas thus stay as they were photographed, and so do areas where the map is NaN.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        anomaly_map: (h, w) numbers on any grid.
        alpha: opacity at the top of the range, in [0, 1].
        value_range: (low, high), or None for the map's own.

    Returns:
        A new (H, W, 3) RGB uint8 picture.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    canvas = as_rgb(image)
    unit = _unit_values(anomaly_map, *canvas.shape[:2], value_range)
    opacity = alpha * np.nan_to_num(unit, nan=0.0)[:, :, None]
    return np.rint(canvas * (1 - opacity) + _paint(unit) * opacity).astype(np.uint8)


def panel_row(tiles: Sequence[np.ndarray], titles: Sequence[str], height: int = 224) -> np.ndarray:
    """Put pictures side by side, each under its title.

    Args:
        tiles: at least one (H, W, 3) RGB or (H, W) grey uint8 picture, of any sizes. Each is
            scaled to ``height``, aspect kept, but at most to 4 times that width, and centred in a
            cell as high as the highest of them and at least half as wide as ``height``.
        titles: one string a tile; one too long for its tile is made smaller, then cut.
        height: height of the tiles in pixels; a row of nothing but wider tiles is lower.

    Returns:
        One (rows, columns, 3) RGB uint8 picture on white.
    """
    if len(tiles) == 0 or len(tiles) != len(titles):
        raise ValueError(
            f"at least one tile and as many titles are expected, got {len(tiles)} tiles and "
            f"{len(titles)} titles"
        )
    if height < 1:
        raise ValueError(f"height must be at least 1 pixel, got {height}")
    pictures = [_fit(as_rgb(tile), height) for tile in tiles]
    highest = max(picture.shape[0] for picture in pictures)
    cells = []
    for picture, title in zip(pictures, titles, strict=True):
        rows, columns = picture.shape[:2]
        cell_width = max(columns, round(_NARROWEST * height))
        cell = np.full((highest, cell_width, 3), _MOUNT, np.uint8)
        top, left = (highest - rows) // 2, (cell_width - columns) // 2
        cell[top : top + rows, left : left + columns] = picture
        cells.append(np.vstack([_caption(title, cell_width), cell]))
    gap = np.full((cells[0].shape[0], _GAP, 3), _PAPER, np.uint8)
    spaced = [part for cell in cells for part in (cell, gap)]
    return np.hstack(spaced[:-1])


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures (H, W, 3) or (H, W) below one another, padded with white to one width.

    Returns:
        One RGB uint8 picture, as wide as the widest row.
    """
    if len(rows) == 0:
        raise ValueError("at least one row is expected, got none")
    pictures = [as_rgb(row) for row in rows]
    width = max(picture.shape[1] for picture in pictures)
    parts = []
    for picture in pictures:
        padding = ((0, _GAP), (0, width - picture.shape[1]), (0, 0))
        parts.append(np.pad(picture, padding, constant_values=_PAPER))
    return np.vstack(parts)[:-_GAP]


def message_tile(text: str, height: int, width: int) -> np.ndarray:
    """A grey picture (height, width, 3) with a line of text, in place of one that is missing."""
    tile = np.full((height, width, 3), _MOUNT, np.uint8)
    coverage = fit_text(
        text, min(max(9, min(height, width) // 12), height), max(width * 9 // 10, 1)
    )
    top, left = (height - coverage.shape[0]) // 2, (width - coverage.shape[1]) // 2
    paint_text(tile, coverage, left, top, _INK)
    return tile


def anomaly_panel(
    image: np.ndarray,
    anomaly_map: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    energies: Mapping[str, np.ndarray] | None = None,
    ground_truth: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    detections: tuple[np.ndarray, Sequence[str]] | None = None,
    title: str = "",
    *,
    value_range: tuple[float, float] | None = (0, 1),
    height: int = 224,
) -> np.ndarray:
    """Everything known about one image, tile by tile; what is None gets no tile.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        anomaly_map: (h, w) numbers: a tile of the map and one of its overlay.
        boxes: (K, 4) pseudo-boxes cut from the map.
        scores: (K,) their scores, written beside them.
        energies: title -> (h, w) channel energy, for example before and after pretraining; each
            is drawn from its own smallest to its own largest value.
        ground_truth: (T, 4) annotated boxes, green.
        mask: (h, w) annotated mask, above 0 inside; its outline is drawn green.
        detections: boxes (D, 4) and D labels, orange, on one tile with the ground truth.
        title: a line above the row.
        value_range: range of the map's colours, or None for the map's own.
        height: height of the tiles in pixels.

    Returns:
        One RGB uint8 picture: a row as from :func:`panel_row`, or several where the tiles of a
        wide image would make it wider than 1400 pixels.
    """
    original = as_rgb(image)
    # Two tiles fit side by side at least.
    height = max(
        1, min(height, (_PANEL_WIDTH // 2 - _GAP) * original.shape[0] // original.shape[1])
    )
    # Drawn at the size of the tile: lines and letters keep their width whatever the picture's.
    picture = _fit(original, height)
    rows, columns = picture.shape[:2]
    scale = np.array([columns, rows, columns, rows]) / np.tile(original.shape[1::-1], 2)

    tiles = [("image", picture)]
    if mask is not None:
        tiles.append(("true mask", draw_mask(picture, mask)))
    if anomaly_map is not None:
        tiles.append(("anomaly map", colorize(anomaly_map, rows, columns, value_range)))
        tiles.append(("overlay", overlay(picture, anomaly_map, value_range=value_range)))
    if boxes is not None:
        labels = None if scores is None else [f"{score:.2f}" for score in scores]
        drawn = draw_boxes(picture, as_boxes(boxes) * scale, labels, PSEUDO_BOX_COLOR)
        tiles.append(("pseudo-boxes", drawn))
    for name, energy in (energies or {}).items():
        tiles.append((name, colorize(energy, rows, columns)))
    compared, legend = picture, []
    if ground_truth is not None:
        compared = draw_boxes(compared, as_boxes(ground_truth) * scale, color=TRUTH_COLOR)
        legend.append("truth (green)")
    if detections is not None:
        found, labels = detections
        compared = draw_boxes(compared, as_boxes(found) * scale, labels, DETECTION_COLOR)
        legend.append("detections (orange)")
    if legend:
        tiles.append((", ".join(legend), compared))
    # As few rows as the width allows, all of about one length.
    most = max(1, _PANEL_WIDTH // (columns + _GAP))
    per_row = math.ceil(len(tiles) / math.ceil(len(tiles) / most))
    lines = [tiles[start : start + per_row] for start in range(0, len(tiles), per_row)]
    sheet = stack_rows(
        [
            panel_row([tile for _, tile in line], [name for name, _ in line], height)
            for line in lines
        ]
    )
    return stack_rows([_caption(title, sheet.shape[1]), sheet]) if title.strip() else sheet


def _unit_values(anomaly_map, height, width, value_range) -> np.ndarray:
    """The map at (height, width), its range brought to [0, 1]; float64, NaN where unknown."""
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} x {width}")
    values = as_map(anomaly_map)
    known = ~np.isnan(values)
    if value_range is not None:
        low, high = as_range(value_range)
    else:
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    unit = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    shrinks = height <= values.shape[0] and width <= values.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # Interpolated over the known pixels only, by the weights they have in the result.
    weight = cv2.resize(known.astype(np.float64), (width, height), interpolation=method)
    total = cv2.resize(np.where(known, unit, 0.0), (width, height), interpolation=method)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight >= 0.5)


def _paint(unit: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * np.nan_to_num(unit, nan=0.0)).astype(np.uint8)
    colors = np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1])
    colors[np.isnan(unit)] = NAN_COLOR
    return colors


def _fit(picture: np.ndarray, height: int) -> np.ndarray:
    """Scale to ``height``, or to the widest tile allowed where that would be wider."""
    rows, columns = picture.shape[:2]
    scale = min(height / rows, _WIDEST * height / columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    if size == (columns, rows):
        return picture
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=method)


def _caption(text: str, width: int) -> np.ndarray:
    """A white strip of the given width with one line of text."""
    strip = np.full((_TITLE_HEIGHT + 4, width, 3), _PAPER, np.uint8)
    coverage = fit_text(text, _TITLE_HEIGHT, width - 2)
    paint_text(strip, coverage, 1, 1 + _TITLE_HEIGHT - coverage.shape[0], _INK)
    return strip
