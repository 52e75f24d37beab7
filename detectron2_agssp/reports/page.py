"""HTML pages from jinja2 templates: each one file that opens from disk and fetches nothing."""

import base64
import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.visualization.checks import as_image
from detectron2_agssp.visualization.text import printable

TEMPLATES = Path(__file__).parent / "templates"

_MISSING = "\N{EN DASH}"  # stands for None and NaN
_SMALL_PICTURE = 128 * 128  # px; up to this size PNG is small enough, and exact


def render_page(template: str | Path, **context: Any) -> str:
    """The page that a template makes of its context; whatever is not ``Markup`` is escaped.

    ``"sections.html"`` is a whole page made of ``title``, ``subtitle`` (may be left out) and
    ``sections``, a list of dicts. Each has a ``title`` and any of these, shown in this order:
    ``warnings`` and ``text`` (lists of paragraphs), ``values`` (a dict), ``table`` (a dict of
    ``headers``, ``rows``, ``caption`` and, where they are wanted, ``decimals`` and ``best``, the
    columns whose largest number is set bold), ``commands`` (a list of shell lines), ``figures``
    (``(drawing, caption)`` pairs of :mod:`~detectron2_agssp.reports.figures`), ``pictures``
    (of :func:`picture`) and ``details`` (a dict: what to click on -> text that it unfolds).

    Args:
        template: a name in ``reports/templates``, or the path of a template elsewhere, which may
            extend ``"base.html"`` and import ``"parts.html"``.
        context: what the template asks for.

    Raises:
        jinja2.TemplateError: there is no such template, or the context lacks something.

    Example:
        >>> section = {"title": "Result", "values": {"AP": 22.1}}
        >>> page = render_page("sections.html", title="Few labels", sections=[section])
    """
    folders = [TEMPLATES]
    if isinstance(template, Path):
        folders.insert(0, template.parent)
        template = template.name
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    return environment.get_template(template).render(**context)


def write_page(path: str | os.PathLike, template: str | Path, **context: Any) -> Path:
    """Writes what :func:`render_page` returns, whole or not at all; missing folders are made.

    Returns:
        The path.
    """
    text = render_page(template, **context)
    with atomic_write(path) as file:
        file.write(text)
    return Path(path)


def picture(
    image: np.ndarray,
    caption: str = "",
    *,
    max_side: int = 2000,
    quality: int = 85,
    wide: bool = False,
) -> dict[str, Any]:
    """A picture that the page embeds, in the form that templates take: PNG up to 128 x 128 pixels,
    JPEG above.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        caption: plain text below it.
        max_side: a picture with a longer side is reduced to it; pixels.
        quality: of JPEG, 1 to 100.
        wide: it has a row of the page to itself, as several panels need; others have one where they
            are large or much wider than high.

    Raises:
        TypeError, ValueError: for another shape or dtype.
    """
    pixels = as_image(image)
    scale = max_side / max(pixels.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    height, width = pixels.shape[:2]
    bgr = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, ::-1])
    if height * width <= _SMALL_PICTURE:
        kind, options = "png", []
    else:
        # Full colour resolution: halved, it smears thin coloured lines and letters.
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        kind, options = "jpeg", [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    _, data = cv2.imencode(f".{kind}", bgr, options)
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"src": address, "width": width, "height": height, "caption": caption, "wide": wide}


def format_number(value: Any, decimals: int = 3) -> str:
    """A number for people: fixed decimals, thousands apart, a dash for None and NaN.

    A number too small for the decimals is written with three significant digits instead of as
    zero; what is not a number becomes its ``str``.
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return _MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not isinstance(value, Real):
        return str(value)
    number = float(value)
    if 0 < abs(number) < 0.5 * 10**-decimals:
        return f"{number:.3g}"
    return f"{number:,.{decimals}f}" if abs(number) < 1e15 else f"{number:.4g}"


def _finalize(value: Any) -> Any:
    # Pictures and drawings are Markup, and large; what is in them has been cleaned before.
    return value if isinstance(value, Markup) else printable(str(value))
