"""Pieces of HTML: escaped text, numbers, tables and embedded pictures."""

import base64
import html
import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np

from detectron2_agssp.visualization.checks import as_image

__all__ = ["MISSING", "embed_image", "escape", "format_number", "table"]

MISSING = "\N{EN DASH}"  # stands for None and NaN

_SMALL_IMAGE = 128 * 128  # px; up to this size PNG is small enough, and exact


def escape(text: Any) -> str:
    """Text that is safe between tags and inside quoted attributes."""
    # Control characters are not allowed in HTML, and half a surrogate pair (an undecodable file
    # name) not in UTF-8.
    printable = "".join(c for c in str(text) if c >= " " or c in "\n\t")
    return html.escape(printable.encode("utf-8", "replace").decode(), quote=True)


def format_number(value: Any, decimals: int = 3) -> str:
    """A number for people: fixed decimals, thousands apart, a dash for None and NaN.

    A number too small for the decimals is written with three significant digits instead of as
    zero; what is not a number becomes its ``str``.
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not isinstance(value, Real):
        return str(value)
    number = float(value)
    if 0 < abs(number) < 0.5 * 10**-decimals:
        return f"{number:.3g}"
    return f"{number:,.{decimals}f}" if abs(number) < 1e15 else f"{number:.4g}"


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str = "",
    highlight_best: Collection[int] | Mapping[int, str] | None = None,
    decimals: int | Sequence[int] = 3,
) -> str:
    """A table in a figure; see :meth:`HtmlReport.add_table`."""
    count = len(headers)
    for row in rows:
        if isinstance(row, str) or len(row) != count:
            raise ValueError(f"a row of {count} cells is expected, got {row!r}")
    places = [decimals] * count if isinstance(decimals, int) else list(decimals)
    if len(places) != count:
        raise ValueError(f"decimals must be one number or {count}, one a column, got {decimals!r}")
    cells = [[format_number(*cell) for cell in zip(row, places, strict=True)] for row in rows]
    numeric = [
        bool(rows) and all(row[column] is None or _is_number(row[column]) for row in rows)
        for column in range(count)
    ]
    best = _best_cells(rows, cells, count, highlight_best)

    def cell(row: int, column: int) -> str:
        # The first column names the row: a header, which readers announce with each cell.
        tag = 'th scope="row"' if column == 0 else "td"
        style = "number" if numeric[column] else "text"
        if (row, column) in best:
            style += " best"
        return f'<{tag} class="{style}">{escape(cells[row][column])}</{tag.split()[0]}>'

    head = "".join(
        f'<th scope="col" class="{"number" if numeric[column] else "text"}">{escape(header)}</th>'
        for column, header in enumerate(headers)
    )
    body = "\n".join(
        f"<tr>{''.join(cell(row, column) for column in range(count))}</tr>"
        for row in range(len(rows))
    )
    if not rows:
        body = f'<tr><td colspan="{max(count, 1)}" class="note">No rows.</td></tr>'
    # The caption is outside the table: it must not scroll away with it, nor make it wider.
    title = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="table">{title}\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption or "Table")}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></figure>"
    )


def embed_image(image: np.ndarray, max_side: int, quality: int) -> tuple[str, int, int]:
    """A picture as a data address: PNG up to 128 x 128 pixels, JPEG above.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        max_side: a picture with a longer side is reduced to it; pixels.
        quality: of JPEG, 1 to 100.

    Returns:
        The address, and height and width of the embedded picture in pixels.
    """
    picture = as_image(image)
    longest = max(picture.shape[:2])
    if longest > max_side:
        height, width = (max(1, round(s * max_side / longest)) for s in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    bgr = picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, ::-1])
    if height * width <= _SMALL_IMAGE:
        kind, options = "png", []
    else:
        # Full colour resolution: halved, it smears thin coloured lines and letters.
        kind = "jpeg"
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    written, data = cv2.imencode(f".{kind}", bgr, options)
    if not written:
        raise ValueError(f"OpenCV cannot write a {height} x {width} picture as {kind}")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", height, width


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _best_cells(rows, cells, count, highlight_best) -> set[tuple[int, int]]:
    if not isinstance(highlight_best, Mapping):
        highlight_best = dict.fromkeys(highlight_best or (), "max")
    best = set()
    for column, direction in highlight_best.items():
        if not 0 <= column < count or direction not in ("max", "min"):
            raise ValueError(
                f"highlight_best takes columns 0 to {count - 1} with 'max' or 'min', got "
                f"{column!r}: {direction!r}"
            )
        values = {
            index: float(row[column])
            for index, row in enumerate(rows)
            if _is_number(row[column]) and not math.isnan(row[column])
        }
        if values:
            winner = (max if direction == "max" else min)(values, key=values.get)
            # Equal as printed is equal to the reader.
            best |= {(i, column) for i in values if cells[i][column] == cells[winner][column]}
    return best
