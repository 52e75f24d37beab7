"""The HTML report: one valid file, everything escaped, nothing fetched."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from detectron2_agssp.reports import HtmlReport
from detectron2_agssp.reports.markup import format_number

EVIL = '<script>alert("x")</script><img src="http://example.com/a.png" onerror=\'x\'> & "quoted"'
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags balance, and collects what the tests look at."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.tags
            if name == tag and attributes.items() <= found.items()
        ]


def image(height, width, channels=3):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def full_report(text="plain"):
    report = HtmlReport(text, text)
    report.add_text(text, text)
    report.add_section(text)
    report.add_key_values({text: text, "rate": 1e-4})
    report.add_table([text, "AP"], [[text, 0.5], ["b", None]], text, highlight_best=[1])
    report.add_images(text, [(text, image(200, 150)), ("", image(60, 900, 1))])
    report.add_bar_chart([text, "b"], {text: [0.5, -0.2], "other": [None, 1]}, text, x_label=text)
    report.add_histogram(image(9, 9), text, x_label=text, markers={text: 3.0})
    report.add_histogram_rows({text: [1], "b": [0]}, [0, 1], text, x_label=text)
    report.add_line_chart(
        {text: ([0, 1, 2], [1.0, np.nan, 3.0]), "b": ([0], [1])}, text, x_label=text, y_label=text
    )
    report.add_details(text, [text, "", text])
    return report


def decode(address):
    data = np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def test_tags_balance_and_sections_are_linked():
    page = Page(full_report().to_html())
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    links = [found["href"] for found in page.all("a")]
    assert len(links) == 3
    assert {link[1:] for link in links} <= set(ids)
    assert page.all("h1")
    assert page.all("html", lang="en")


def test_everything_is_escaped():
    html = full_report(EVIL).to_html()
    page = Page(html)
    assert len(page.all("script")) == 1
    assert all(found["src"].startswith("data:image/") for found in page.all("img"))
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert EVIL in " ".join(page.text), "the text itself must arrive unchanged"
    assert any(found["alt"] == EVIL for found in page.all("img"))


def test_nothing_is_fetched():
    html = full_report().to_html()
    page = Page(html)
    assert "http" not in re.sub(r"http-equiv", "", re.sub(r"base64,[\w+/=]+", "", html))
    assert not page.all("link")
    assert "url(" not in html
    assert "@import" not in html
    assert any("default-src 'none'" in found.get("content", "") for found in page.all("meta"))
    for _, found in page.tags:
        assert found.get("href", "#").startswith("#")
        assert found.get("src", "data:").startswith("data:")


def test_empty_inputs_say_so():
    report = HtmlReport("Empty")
    report.add_images("Pictures", [])
    report.add_table(["a"], [])
    report.add_key_values({})
    report.add_bar_chart([], {})
    report.add_bar_chart(["a"], {"x": [None]})
    report.add_histogram([])
    report.add_histogram([np.nan])
    report.add_line_chart({})
    report.add_line_chart({"x": ([], [])})
    report.add_details("Log", [])
    text = " ".join(Page(report.to_html()).text)
    assert "No images." in text
    assert "No rows." in text
    assert text.count("No values.") == 7
    assert not Page(HtmlReport("Only a title").to_html()).all("nav")


def test_images_are_embedded_in_their_colors():
    report = HtmlReport("t")
    red = np.zeros((300, 400, 3), np.uint8)
    red[..., 0] = 255
    small = image(20, 30)
    report.add_images("", [("red", red), ("small", small), ("grey", image(40, 30, 1))])
    large, exact, grey = (decode(found["src"]) for found in Page(report.to_html()).all("img"))
    blue, green, first = large[150, 200]
    assert first > 240
    assert max(blue, green) < 15
    assert large.shape == (300, 400, 3)
    assert (exact[..., ::-1] == small).all()
    assert (grey == image(40, 30, 1)).all()


def test_large_images_are_reduced_and_the_file_stays_small():
    report = HtmlReport("t")
    smooth = cv2.resize(image(8, 16), (4096, 2000), interpolation=cv2.INTER_CUBIC)
    report.add_images("", [("", smooth)], max_side=1000)
    html = report.to_html()
    (found,) = Page(html).all("img")
    assert (found["width"], found["height"]) == ("1000", "488")
    assert decode(found["src"]).shape == (488, 1000, 3)
    assert found["alt"]
    assert len(html) < 200_000
    assert len(HtmlReport("t").to_html()) < 20_000


def test_bad_image_is_refused_and_leaves_no_section():
    report = HtmlReport("t")
    with pytest.raises(TypeError, match=r"shape \(4, 5, 3\), dtype float32"):
        report.add_images("Broken", [("", np.zeros((4, 5, 3), np.float32))])
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        report.add_images("Broken", [("", np.zeros((3, 4, 5), np.uint8))])
    assert "Broken" not in report.to_html()


def test_best_of_a_column():
    def best(direction, values):
        report = HtmlReport("t")
        rows = [[f"row {index}", value] for index, value in enumerate(values)]
        report.add_table(["a", "b"], rows, highlight_best=direction)
        return re.findall(r'best">([^<]*)<', report.to_html())

    assert best([1], [0.1, 0.9, 0.5]) == ["0.900"]
    assert best({1: "min"}, [0.1, 0.9, 0.5]) == ["0.100"]
    assert best([1], [0.90001, 0.9, 0.5]) == ["0.900", "0.900"]
    assert best([1], [None, float("nan"), "n/a", np.float32(0.5)]) == ["0.500"]
    assert best([1], ["x", "y"]) == []
    for wrong in ([2], [-1], {1: "most"}):
        with pytest.raises(ValueError, match="columns 0 to 1"):
            best(wrong, [1, 2])


def test_columns_of_numbers_are_flush_right():
    report = HtmlReport("t")
    report.add_table(["name", "n", "mixed"], [["a", 1, 1], ["b", None, "x"]], decimals=[0, 1, 2])
    header = [found["class"] for found in Page(report.to_html()).all("th", scope="col")]
    assert header == ["text", "number", "text"]
    with pytest.raises(ValueError, match="a row of 2 cells"):
        report.add_table(["a", "b"], [["x", 1], ["y"]])
    with pytest.raises(ValueError, match="decimals"):
        report.add_table(["a", "b"], [], decimals=[1])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (120000, "120,000"),
        (np.int64(7), "7"),
        (0.12345, "0.123"),
        (np.float32(0.5), "0.500"),
        (1e-4, "0.0001"),
        (0.0, "0.000"),
        (-2.5, "-2.500"),
        (None, "–"),  # noqa: RUF001
        (float("nan"), "–"),  # noqa: RUF001
        (True, "yes"),
        ("64 px", "64 px"),
    ],
)
def test_numbers(value, text):
    assert format_number(value) == text


def test_bars_are_as_long_as_their_values():
    report = HtmlReport("t")
    report.add_bar_chart(["a", "b", "c"], {"x": [1.0, 2.0, -1.0]})
    bars = Page(report.to_html()).all("rect")
    widths = [float(found["width"]) for found in bars]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == pytest.approx(widths[0], abs=0.2)
    zero = float(bars[0]["x"])
    assert float(bars[2]["x"]) == pytest.approx(zero - widths[2], abs=0.2)
    assert all(0 <= float(found["x"]) <= 720 for found in bars)


def test_charts_of_constant_values():
    report = HtmlReport("t")
    report.add_bar_chart(["a"], {"x": [0]})
    report.add_histogram(np.full((3, 4), 0.7, np.float16))
    report.add_histogram([1.0, 1.0 + 1e-16 * 2])
    report.add_line_chart({"x": ([5, 5], [3, 3])})
    html = report.to_html()
    Page(html)
    assert "nan" not in html.lower().replace("nano", "")


def test_histogram_of_counts():
    report = HtmlReport("t")
    report.add_histogram([1, 4, 0], edges=[0, 0.1, 0.5, 1])
    bars = Page(report.to_html()).all("rect")
    heights = [float(found["height"]) for found in bars]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.1)
    assert heights[2] == 0
    assert float(bars[1]["width"]) > 3 * float(bars[0]["width"])
    with pytest.raises(ValueError, match="3 counts expect 4 increasing edges"):
        report.add_histogram([1, 4, 0], edges=[0, 1, 2])
    with pytest.raises(ValueError, match="not negative"):
        report.add_histogram([1, -4], edges=[0, 1, 2])


def test_histograms_in_rows():
    report = HtmlReport("t")
    rows = {"few": [1, 0, 2], "many": [1000, 500, 0], "none": [0, 0, 0]}
    report.add_histogram_rows(rows, [0, 1, 2, 4], x_label="x", markers={"limit": 3})
    page = Page(report.to_html())
    heights = np.array([float(bar["height"]) for bar in page.all("rect")]).reshape(3, 3)
    # Each row has its own height, all have one axis.
    assert heights[0, 2] == heights[1, 0] == heights.max()
    assert heights[0, 0] == pytest.approx(heights[0, 2] / 2, abs=0.1)
    assert not heights[2].any()
    left = np.array([float(bar["x"]) for bar in page.all("rect")]).reshape(3, 3)
    assert (left == left[0]).all()
    text = "".join(page.text)
    for part in ("few", "many", "1,500", "limit 3.000", "x"):
        assert part in text
    with pytest.raises(ValueError, match="2 counts expect 3 increasing edges"):
        report.add_histogram_rows({"a": [1, 2]}, [0, 1])
    report = HtmlReport("t")
    report.add_histogram_rows({}, [0, 1])
    assert "No values." in report.to_html()


def test_nan_interrupts_a_line():
    report = HtmlReport("t")
    y = np.arange(100.0)
    y[50] = np.nan
    report.add_line_chart({"x": (np.arange(100), y)})
    lines = Page(report.to_html()).all("polyline")
    assert [len(found["points"].split()) for found in lines] == [50, 49]
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        report.add_line_chart({"x": ([1, 2], [1, 2, 3])})
    with pytest.raises(ValueError, match="2 values"):
        report.add_bar_chart(["a"], {"x": [1, 2]})


def test_more_series_than_colors_are_told_apart():
    report = HtmlReport("t")
    report.add_line_chart({f"run {i}": ([0, 1], [i, i + 1]) for i in range(8)})
    styles = [found["class"] for found in Page(report.to_html()).all("polyline")]
    assert len(set(styles)) == 8


def test_paragraphs():
    report = HtmlReport("t")
    report.add_text("one\n\ntwo\n \nthree\nstill three", "", "four")
    assert report.to_html().count("<p>") == 4 + 1  # one in the viewer
    with pytest.raises(TypeError, match="list"):
        report.add_text(["one"])
    with pytest.raises(ValueError, match="title"):
        report.add_section(" ")


def test_undecodable_file_names_and_control_characters(tmp_path):
    report = HtmlReport("name \udcff.jpg \x00\x1b[0m")
    text = report.write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "name ?.jpg [0m" in text


def test_write_is_atomic_and_repeatable(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "report.html"
    assert full_report().write(path) == path
    before = path.read_bytes()
    assert full_report().write(str(path)).read_bytes() == before

    report = HtmlReport("broken")
    monkeypatch.setattr(HtmlReport, "to_html", lambda self: "half a page \udcff")
    with pytest.raises(UnicodeEncodeError):
        report.write(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
