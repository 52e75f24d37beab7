"""Pages: one valid file, everything escaped, nothing fetched."""

import base64
import re
from html.parser import HTMLParser

import cv2
import jinja2
import numpy as np
import pytest

from detectron2_agssp.reports import picture, render_page, write_page
from detectron2_agssp.reports.figures import bars
from detectron2_agssp.reports.page import format_number

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
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag, **attributes):
        return [
            seen for name, seen in self.tags if name == tag and attributes.items() <= seen.items()
        ]


def image(height, width, channels=3):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def full_page(text="plain"):
    pictures = [picture(image(200, 150), text), picture(image(60, 900, 1))]
    section = {
        "title": text,
        "warnings": [text],
        "text": [text],
        "values": {text: text, "rate": 1e-4},
        "table": {"headers": [text, "AP"], "rows": [[text, 0.5], ["b", None]], "caption": text},
        "commands": [text],
        "figures": [(bars([text, "b"], [1, 2], x_label=text), text), (bars([], []), "none")],
        "pictures": pictures,
        "details": {text: text},
    }
    pictures_only = {"title": f"{text} again", "pictures": pictures}
    return render_page(
        "sections.html", title=text, subtitle=text, sections=[section, pictures_only]
    )


def render(**section):
    return render_page(
        "sections.html", title="t", subtitle="", sections=[{"title": "s", **section}]
    )


def decode(address):
    data = np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def test_tags_balance_and_links_lead_somewhere():
    page = Page(full_page())
    ids = [seen["id"] for _, seen in page.tags if "id" in seen]
    assert len(ids) == len(set(ids))
    links = [seen["href"] for seen in page.all("a")]
    # To the content, two sections, and of each of four pictures to large and back.
    assert len(links) == 1 + 2 + 4 * 2
    assert {link[1:] for link in links} <= set(ids)
    assert page.all("html", lang="en")


def test_everything_is_escaped():
    page = Page(full_page(EVIL))
    assert not page.all("script")
    assert page.all("img")
    assert all(seen["src"].startswith("data:image/") for seen in page.all("img"))
    assert not any(name.startswith("on") for _, seen in page.tags for name in seen)
    text = "".join(page.text)
    assert text.count(EVIL) >= 10, "the text itself must arrive unchanged"
    assert any(seen["alt"] == EVIL for seen in page.all("img"))


def test_nothing_is_fetched():
    html = full_page()
    page = Page(html)
    namespaces = r'xmlns(:xlink)?="[^"]*"|http-equiv|base64,[\w+/=]+'
    assert "http" not in re.sub(namespaces, "", html)
    assert not page.all("link")
    assert "@import" not in html
    assert any("default-src 'none'" in seen.get("content", "") for seen in page.all("meta"))
    for _, seen in page.tags:
        assert seen.get("href", "#").startswith("#")
        assert seen.get("src", "data:").startswith("data:")


def test_empty_inputs_say_so():
    html = render(values={}, table={"headers": ["a"], "rows": []}, pictures=[], details={"log": ""})
    text = " ".join(Page(html).text)
    for part in ("No rows.", "No images.", "(empty)"):
        assert part in text
    assert not Page(render_page("sections.html", title="t", sections=[])).all("nav")


def test_pictures_are_embedded_in_their_colors():
    red = np.zeros((300, 400, 3), np.uint8)
    red[..., 0] = 255
    small, grey = image(20, 30), image(40, 30, 1)
    large, exact, single = (decode(picture(pixels)["src"]) for pixels in (red, small, grey))
    blue, green, first = large[150, 200]
    assert first > 240
    assert max(blue, green) < 15
    assert large.shape == (300, 400, 3)
    assert (exact[..., ::-1] == small).all()
    assert (single == grey).all()


def test_large_pictures_are_reduced_and_the_file_stays_small():
    smooth = cv2.resize(image(8, 16), (4096, 2000), interpolation=cv2.INTER_CUBIC)
    html = render(pictures=[picture(smooth, max_side=1000)])
    (shown,) = Page(html).all("img")
    assert (shown["width"], shown["height"]) == ("1000", "488")
    assert decode(shown["src"]).shape == (488, 1000, 3)
    assert shown["alt"]
    assert len(html) < 200_000
    assert len(render()) < 20_000


def test_bad_pictures():
    with pytest.raises(TypeError, match=r"shape \(4, 5, 3\), dtype float32"):
        picture(np.zeros((4, 5, 3), np.float32))
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        picture(np.zeros((3, 4, 5), np.uint8))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([0.1, 0.9, 0.5], ["0.900"]),
        ([0.90001, 0.9, 0.5], ["0.900", "0.900"]),
        ([None, "n/a", np.float32(0.5)], ["0.500"]),
        (["x", "y"], []),
    ],
)
def test_best_of_a_column(column, expected):
    rows = [[f"row {index}", value] for index, value in enumerate(column)]
    html = render(table={"headers": ["a", "b"], "rows": rows, "best": [1]})
    assert re.findall(r'best">([^<]*)<', html) == expected


def test_columns_of_numbers_are_flush_right():
    rows = [["a", 1, 0.25], ["b", None, 2]]
    html = render(table={"headers": ["name", "n", "x"], "rows": rows, "decimals": [0, 1, 2]})
    page = Page(html)
    assert [seen.get("class") for seen in page.all("th", scope="col")] == [None, "number", "number"]
    assert [seen.get("class") for seen in page.all("td")] == ["number"] * 4
    assert ">0.25<" in html


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


def test_templates_elsewhere_extend_the_packages(tmp_path):
    template = tmp_path / "own.html"
    template.write_text(
        '{% extends "base.html" %}{% block content %}<p>{{ words }}</p>{% endblock %}'
    )
    html = render_page(template, title="t", words="<b>")
    assert "<p>&lt;b&gt;</p>" in html
    Page(html)
    with pytest.raises(jinja2.UndefinedError, match="words"):
        render_page(template, title="t")


def test_undecodable_file_names_and_control_characters(tmp_path):
    path = write_page(
        tmp_path / "r.html", "sections.html", title="name \udcff.jpg \x00\x1b[0m", sections=[]
    )
    assert "name ?.jpg ??[0m" in path.read_text(encoding="utf-8")


def test_write_is_atomic_and_repeatable(tmp_path):
    path = tmp_path / "new folder" / "page.html"
    options = {"title": "t", "sections": [{"title": "s", "figures": [(bars(["a"], [1]), "")]}]}
    assert write_page(path, "sections.html", **options) == path
    before = path.read_bytes()
    assert write_page(str(path), "sections.html", **options).read_bytes() == before
    with pytest.raises(jinja2.UndefinedError):
        write_page(path, "sections.html", title="t")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
