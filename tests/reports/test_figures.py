"""Figures: drawn to scale, of hostile names, and of nothing."""

import re
import warnings

import numpy as np
import pytest

from detectron2_agssp.reports.figures import bars, histograms, lines
from tests.reports.test_page import EVIL, Page

ODD = ["$a_b$ 划痕.png", "name \udcff\x00", EVIL, "x" * 300, ""]


def texts(svg):
    return [text.strip() for text in Page(svg).text if text.strip()]


def paths(svg, group):
    """The points of the first path in each group whose id ends like that."""
    found = re.findall(rf'<g id="[^"]*-{group}">\s*<path d="([^"]*)"', svg)
    return [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float) for path in found]


def test_bars_are_as_long_as_their_values():
    svg = bars(["a", "b", "c"], [1.0, 2.0, -1.0], x_label="seconds")
    # The background of the figure and of the axes come first.
    drawn = paths(svg, r"patch_\d+")[2:5]
    lengths = [np.ptp(points[:, 0]) for points in drawn]
    assert lengths[1] == pytest.approx(2 * lengths[0], rel=0.01)
    assert lengths[2] == pytest.approx(lengths[0], rel=0.01)
    assert drawn[2][:, 0].max() == pytest.approx(drawn[0][:, 0].min(), abs=0.1)
    assert {"a", "b", "c", "1", "2", "-1", "seconds"} <= set(texts(svg))


def test_a_bar_of_thousands_has_them_in_full():
    assert {"1,240", "99.5", "0.0123"} <= set(texts(bars(["a", "b", "c"], [1240, 99.5, 0.0123])))


def test_histograms_share_an_axis_but_not_a_height():
    rows = {"few": [1, 0, 2], "many": [1000, 500, 0], "none": [0, 0, 0]}
    svg = histograms(rows, [0, 1, 2, 4], x_label="score", marker=("limit", 3))
    assert {"few: 3", "many: 1,500", "none: 0", "limit 3.000", "score"} <= set(texts(svg))
    steps = [points for points in paths(svg, r"patch_\d+") if len(points) > 5]
    heights = [np.ptp(points[:, 1]) for points in steps]
    assert heights[0] == pytest.approx(heights[1], rel=0.01)
    assert heights[2] == 0
    assert "images" in texts(histograms({"all": [1, 2]}, [0, 1, 2]))


def test_nan_interrupts_a_line_and_leaves_a_bar_out():
    y = np.arange(100.0)
    y[50] = np.nan
    svg = lines({"x": (np.arange(100), y)}, x_label="step", y_label="loss")
    assert {"x", "step", "loss"} <= set(texts(svg))
    assert any(path.count("M") == 2 for path in re.findall(r'<path d="([^"]*)"', svg))
    assert texts(bars(["a", "b"], [1.5, None])).count("1.5") >= 1


def test_odd_names_are_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = [
            bars(ODD, range(5), x_label=EVIL),
            histograms({name: [1, 2] for name in ODD}, [0, 1, 2], x_label=EVIL, marker=(EVIL, 1)),
            lines({name: ([0, 1], [0, 1]) for name in ODD}, x_label=EVIL, y_label=EVIL),
        ]
    for svg in drawn:
        page = Page(svg)
        assert "script" not in {tag for tag, _ in page.tags}
        assert EVIL in page.text
        assert "$a_b$ 划痕.png" in " ".join(page.text)
        svg.encode("utf-8")


def test_colors_follow_the_page_and_the_same_figure_gives_the_same_bytes():
    first, second = (bars(["a"], [1.0]) for _ in range(2))
    assert first == second
    assert "currentColor" in first
    other = bars(["a"], [2.0])
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, other)]
    assert not ids[0] & ids[1], "both may be on one page"


def test_nothing_to_draw():
    assert bars([], []) == bars(["a"], [float("nan")]) == ""
    assert histograms({}, [0, 1]) == ""
    assert lines({}) == lines({"x": ([], [])}) == ""


def test_wrong_arguments():
    with pytest.raises(ValueError, match="got 1, 2"):
        bars(["a"], [1, 2])
    for edges in ([0, 1], [0, 2, 1]):
        with pytest.raises(ValueError, match="2 counts expect 3 increasing edges"):
            histograms({"a": [1, 2]}, edges)
