"""A report as one HTML file that opens from disk, without a network, in light and dark."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.reports import charts
from detectron2_agssp.reports.markup import embed_image, escape, format_number, table
from detectron2_agssp.reports.page import render_page

__all__ = ["HtmlReport"]

_WIDE = 1.8  # from this width to height on, a picture takes a whole line


class HtmlReport:
    """Collects sections of text, tables, charts and pictures, and writes them as one file.

    Whatever is passed in is plain text and is escaped; there is no markup. Numbers are printed
    with thousands apart, None and NaN as a dash.

    Example:
        >>> report = HtmlReport("Anomaly maps", "NEU-DET, mahalanobis")
        >>> report.add_section("Scores")
        >>> report.add_table(["class", "AUROC"], [["crazing", 0.87]], highlight_best=[1])
        >>> path = report.write("report.html")
    """

    def __init__(self, title: str, subtitle: str = ""):
        self.title = title
        self.subtitle = subtitle
        # The first section has no heading: it takes what comes before add_section.
        self._sections: list[tuple[str, list[str]]] = [("", [])]

    def add_section(self, title: str) -> None:
        """Start a section, with an entry in the table of contents."""
        if not title.strip():
            raise ValueError(f"a section needs a title, got {title!r}")
        self._sections.append((title, []))

    def add_text(self, *paragraphs: str) -> None:
        """Add paragraphs; a blank line inside one also divides."""
        for text in paragraphs:
            if not isinstance(text, str):
                raise TypeError(f"a paragraph must be a string, got {type(text).__name__}")
            for part in re.split(r"\n\s*\n", text):
                if part.strip():
                    self._add(f"<p>{escape(part.strip())}</p>")

    def add_key_values(self, values: Mapping[str, Any]) -> None:
        """Add pairs such as settings and their values, one a line."""
        pairs = "\n".join(
            f"<dt>{escape(key)}</dt><dd>{escape(format_number(value))}</dd>"
            for key, value in values.items()
        )
        self._add(f"<dl>{pairs}</dl>" if values else _note("No values."))

    def add_table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str = "",
        highlight_best: Collection[int] | Mapping[int, str] | None = None,
        decimals: int | Sequence[int] = 3,
    ) -> None:
        """Add a table; a column of numbers only is set flush right.

        Args:
            headers: C column titles.
            rows: each of C cells: numbers, None or anything with a ``str``.
            caption: a line above the table.
            highlight_best: columns, counted from 0, whose largest number is set bold; or
                column -> "max" or "min". Cells printed alike are equal; other cells never win.
            decimals: of floats; one number, or C of them, one a column.

        Raises:
            ValueError: for a row of another length or a column that does not exist.
        """
        self._add(table(headers, rows, caption, highlight_best, decimals))

    def add_images(
        self,
        section: str,
        images: Iterable[tuple[str, np.ndarray]],
        *,
        max_side: int = 2000,
        quality: int = 85,
    ) -> None:
        """Add pictures in a grid; a click shows one large.

        Args:
            section: title of a new section for them; "" keeps them in the current one.
            images: (caption, picture) pairs; a picture is (H, W, 3) RGB or (H, W) grey, uint8.
                One at least 1.8 times as wide as high, such as a panel row, takes a whole line.
            max_side: pictures with a longer side are reduced to it; pixels.
            quality: of the embedded JPEG, 1 to 100. Up to 128 x 128 pixels it is PNG, exact.

        Raises:
            TypeError, ValueError: for pictures of another shape or dtype.
        """
        figures = [_figure(caption, image, max_side, quality) for caption, image in images]
        if section:
            self.add_section(section)
        body = "\n".join(figures)
        self._add(f'<div class="images">\n{body}\n</div>' if figures else _note("No images."))

    def add_bar_chart(
        self,
        labels: Sequence[str],
        series: Mapping[str, Sequence[float | None]],
        caption: str = "",
        *,
        x_label: str = "",
        decimals: int = 3,
    ) -> None:
        """Add horizontal bars from zero, with their values.

        Args:
            labels: L groups, from top to bottom.
            series: name -> L values, one bar a group; None and NaN leave the bar out.
            caption: a line below.
            x_label: what the values are, with their unit.
            decimals: of the values.
        """
        chart = charts.bar_chart(labels, series, x_label=x_label, decimals=decimals)
        self._add_chart(chart, caption)

    def add_histogram(
        self,
        values: Sequence[float] | np.ndarray,
        caption: str = "",
        *,
        bins: int = 30,
        edges: Sequence[float] | np.ndarray | None = None,
        x_label: str = "",
        markers: Mapping[str, float] | None = None,
    ) -> None:
        """Add a histogram.

        Args:
            values: numbers of any shape, those not finite left out; or, with ``edges``, B counts.
            caption: a line below.
            bins: number of bins between the smallest and the largest value.
            edges: B + 1 increasing bin limits, for counts made elsewhere.
            x_label: what the values are, with their unit.
            markers: name -> value of vertical lines, such as a threshold.
        """
        chart = charts.histogram(values, bins=bins, edges=edges, x_label=x_label, markers=markers)
        self._add_chart(chart, caption)

    def add_histogram_rows(
        self,
        rows: Mapping[str, Sequence[float]],
        edges: Sequence[float] | np.ndarray,
        caption: str = "",
        *,
        x_label: str = "",
        markers: Mapping[str, float] | None = None,
    ) -> None:
        """Add histograms below one another, to compare their shapes.

        Args:
            rows: name -> B counts. Each row is drawn to its own height, its total beside it.
            edges: B + 1 increasing bin limits, common to all.
            caption: a line below.
            x_label: what the values are, with their unit.
            markers: name -> value of vertical lines through all rows.
        """
        chart = charts.histogram_rows(rows, edges, x_label=x_label, markers=markers)
        self._add_chart(chart, caption)

    def add_line_chart(
        self,
        series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        caption: str = "",
        *,
        x_label: str = "",
        y_label: str = "",
    ) -> None:
        """Add lines over a common axis.

        Args:
            series: name -> (x, y), two sequences of one length; NaN and infinities interrupt the
                line. Up to 40 points are marked.
            caption: a line below.
            x_label, y_label: what the values are, with their unit.
        """
        self._add_chart(charts.line_chart(series, x_label=x_label, y_label=y_label), caption)

    def add_details(self, summary: str, lines: Iterable[str]) -> None:
        """Add lines of log or configuration that a click on the summary unfolds."""
        if isinstance(lines, str):
            lines = lines.splitlines()
        text = "\n".join(escape(line) for line in lines) or "(empty)"
        # The line break behind <pre> is not shown; without it a first empty line would be lost.
        self._add(f"<details><summary>{escape(summary)}</summary><pre>\n{text}</pre></details>")

    def to_html(self) -> str:
        """The whole report; the same calls give the same bytes."""
        contents, body = [], []
        for index, (title, blocks) in enumerate(self._sections):
            if title:
                name = f"section-{index}"
                contents.append((name, title))
                heading = f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>'
                body.append("\n".join([heading, *blocks, "</section>"]))
            elif blocks:
                body.append("\n".join(["<section>", *blocks, "</section>"]))
        return render_page(self.title, self.subtitle, contents, "\n".join(body))

    def write(self, path: str | os.PathLike) -> Path:
        """Write the file, whole or not at all; missing folders are made.

        Returns:
            The path.
        """
        target = Path(path)
        with atomic_write(target) as file:
            file.write(self.to_html())
        return target

    def _add(self, block: str) -> None:
        self._sections[-1][1].append(block)

    def _add_chart(self, chart: str, caption: str) -> None:
        text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        chart = chart or _note("No values.")
        self._add(f'<figure class="chart-figure">{chart}{text}</figure>')


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _figure(caption: str, image: np.ndarray, max_side: int, quality: int) -> str:
    address, height, width = embed_image(image, max_side, quality)
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    button = (
        f'<button type="button" class="zoom"><img src="{address}" width="{width}" '
        f'height="{height}" alt="{escape(caption or "Picture without caption")}"></button>'
    )
    if width < _WIDE * height:
        return f"<figure>{button}{text}</figure>"
    # In a narrow window a row of tiles is scrolled rather than shrunk beyond recognition.
    return (
        f'<figure class="wide"><div class="scroll">'
        f'<div style="width:{width}px">{button}</div></div>{text}</figure>'
    )
