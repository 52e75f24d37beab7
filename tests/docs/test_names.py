"""What the documentation names in passing exists: files, config keys, yaml settings, links."""

import re

import pytest
import yaml
from detectron2.config import get_cfg

from tests.docs.blocks import PAGES, read_blocks
from tests.tiny_models import ROOT

PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
KEY = re.compile(r"\b(?:AGSSP|DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST)(?:\.[A-Z][A-Z0-9_]*)+")
FOLDERS = "benchmarks|configs|detectron2_agssp|docs|examples|requirements|tests|tools"
FILE = re.compile(rf"^(?:(?:{FOLDERS})/[\w./-]+|datasets/\w+\.\w+)$")


def prose(page) -> str:
    """The page without its blocks and comments."""
    text = re.sub(r"^ *(```+).*?^ *\1$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def lacking_keys(text: str) -> list[str]:
    keys = {key.removesuffix(".") for key in KEY.findall(text)}
    cfg = get_cfg()

    def exists(key: str) -> bool:
        node = cfg
        for part in key.split("."):
            if part not in node:
                return False
            node = node[part]
        return True

    return sorted(key for key in keys if not exists(key))


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_config_keys_exist(page):
    assert lacking_keys(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_files_exist(page):
    named = [text for text in INLINE.findall(prose(page)) if FILE.match(text)]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(prose(page)):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    assert broken == []


def headings(page) -> set[str]:
    """The anchors of a page, as the hosting page and Sphinx make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_yaml_blocks(page):
    for block in read_blocks(page):
        if block.language == "yaml":
            content = yaml.safe_load(block.text)
            cfg = get_cfg()
            if set(content) & set(cfg):
                cfg.merge_from_other_cfg(type(cfg)(content))


def test_what_is_not_there_is_found(tmp_path):
    assert lacking_keys("`AGSSP.SCORER.NAME`, AGSSP.SCORER.NOSUCH.") == ["AGSSP.SCORER.NOSUCH"]
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n\n```\n# no\n```\n<!-- `configs/nosuch` -->")
    assert headings(page) == {"a-b-c"}
    assert INLINE.findall(prose(page)) == ["b"]


def test_every_question_has_one_room():
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    rooms = [INLINE.findall(room) for question, room in rows if room != "the room"]
    assert len(rooms) >= 14
    assert [room for room in rooms if len(room) != 1 or not (ROOT / room[0]).is_file()] == []


def test_pages_that_code_and_configs_name_exist():
    page = re.compile(r"\b(?:docs/\w+|benchmarks/notebook)\.md\b")
    broken = []
    for folder in ("benchmarks", "configs", "datasets", "detectron2_agssp", "examples", "tools"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                named = set(page.findall(path.read_text()))
                broken += [(path, name) for name in named if not (ROOT / name).exists()]
    assert broken == []
