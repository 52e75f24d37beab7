"""Descriptions: what is read, and that every mistake is named with its line and a way out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from detectron2_agssp.data.formats.classes import MAGNETIC_TILE_CLASSES, NEU_DET_CLASSES
from detectron2_agssp.scoring.kead.descriptions import (
    Defect,
    ObjectDescription,
    builtin_descriptions,
    load_descriptions,
)

GOOD = """\
# a comment
steel strip:
  normal:
    - an even surface
    - "{} fresh from the mill"
  defects:
    - name: rolled-in_scale
      appearance: dark flakes
        over two lines
    - name: scratches
      appearance: bright lines
brass tube:
  normal: [a yellow sheen]
  defects: [{name: dent, appearance: a shallow hollow}]
"""
RELEASED = {
    "tube_set": {
        "des": {
            "good": ["{} without any dents", "{} is a round thing"],
            "defect": [
                "{} with deep dent defect, it appears as a  shaded hollow",
                "{} with blurred end, it appears as fog",
                "{} with deep dent defect, it appears as a bright rim",
                "{} with cap missing defect",
                "broken {}",
            ],
        },
        "map": "tube surface",
        "samples": ["/somewhere/else.png"],
    }
}


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def strip(normal="[even]", defects="[{name: pit, appearance: dark}]"):
    return f"strip:\n  normal: {normal}\n  defects: {defects}\n"


# ---- what is read --------------------------------------------------------------------------------


def test_our_layout(write):
    objects = load_descriptions(write(GOOD))
    assert list(objects) == ["steel strip", "brass tube"]
    assert objects["steel strip"] == ObjectDescription(
        "steel strip",
        ("an even surface", "{} fresh from the mill"),
        (
            Defect("rolled-in_scale", "dark flakes over two lines"),
            Defect("scratches", "bright lines"),
        ),
    )
    assert objects["brass tube"].defects == (Defect("dent", "a shallow hollow"),)


def test_descriptions_cannot_be_changed(write):
    tube = load_descriptions(write(GOOD))["brass tube"]
    with pytest.raises(AttributeError):
        tube.name = "copper tube"
    hash(tube)


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_our_layout_as_json(write, indent):
    content = {"tube": {"normal": ["plain"], "defects": [{"name": "pit", "appearance": "a\tb"}]}}
    path = write("\ufeff" + json.dumps(content, indent=indent), "mine.json")
    expected = ObjectDescription("tube", ("plain",), (Defect("pit", "a b"),))
    assert load_descriptions(str(path)) == {"tube": expected}


@pytest.mark.parametrize("indent", [None, 4, "\t"])
def test_released_layout(write, indent):
    """Phrases are kept whole; names come from them, and repeated ones are numbered."""
    objects = load_descriptions(write(json.dumps(RELEASED, indent=indent), "released.json"))
    assert list(objects) == ["tube_set"]
    tube = objects["tube_set"]
    assert tube.name == "tube surface"
    assert tube.normal_states == ("{} without any dents", "{} is a round thing")
    assert tube.defects == (
        Defect("deep dent", "{} with deep dent defect, it appears as a shaded hollow"),
        Defect("blurred end", "{} with blurred end, it appears as fog"),
        Defect("deep dent 2", "{} with deep dent defect, it appears as a bright rim"),
        Defect("cap missing", "{} with cap missing defect"),
        Defect("broken", "broken {}"),
    )


# ---- those of the package ------------------------------------------------------------------------


def test_builtin_names():
    assert builtin_descriptions() == [
        "aluminium",
        "casting_billet",
        "gc10_det",
        "kolektor_sdd2",
        "magnetic_tile",
        "metal_surface",
        "neu_det",
        "rails",
        "severstal",
        "steel_pipe",
    ]


@pytest.mark.parametrize("name", builtin_descriptions())
def test_builtin_descriptions_say_enough_and_no_more(name):
    for key, described in load_descriptions(name).items():
        assert key == described.name
        assert len(set(described.normal_states)) >= 3
        appearances = [defect.appearance for defect in described.defects]
        assert len(set(appearances)) == len(appearances)
        for text in (*described.normal_states, *appearances):
            assert 3 <= len(text.split()) <= 20, text
            assert not text.endswith("."), text
            assert text == text.strip()
            # Only words and plain punctuation: a comment or a quote that slipped in would show.
            assert not set(text) & set("#\"'`{}[]:;"), text


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("neu_det", NEU_DET_CLASSES),
        ("magnetic_tile", [name.lower() for name in MAGNETIC_TILE_CLASSES]),
    ],
)
def test_builtin_defects_are_the_data_sets_classes(name, classes):
    (described,) = load_descriptions(name).values()
    assert [defect.name for defect in described.defects] == list(classes)


@pytest.mark.parametrize(
    ("name", "count"),
    [("gc10_det", 10), ("severstal", 4), ("steel_pipe", 4), ("casting_billet", 6)],
)
def test_number_of_classes(name, count):
    (described,) = load_descriptions(name).values()
    assert len(described.defects) == count


def test_a_builtin_name_goes_before_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neu_det").write_text(strip())
    assert list(load_descriptions("neu_det")) == ["hot-rolled steel strip"]
    assert list(load_descriptions("./neu_det")) == ["strip"]


def test_packaging_takes_the_files_along(tmp_path):
    """A copy is built, because building writes beside setup.py."""
    root = Path(__file__).parents[2]
    if not (root / "setup.py").is_file():
        pytest.skip("needs a checkout")
    package = tmp_path / "detectron2_agssp"
    folders = ("", "scoring", "scoring/kead")
    for folder in folders:
        (package / folder).mkdir(parents=True, exist_ok=True)
        (package / folder / "__init__.py").touch()
    source = root / "detectron2_agssp"
    (package / "scoring/kead/builtin").symlink_to(source / "scoring/kead/builtin")
    for name in ("setup.py", "README.md", "pyproject.toml", "detectron2_agssp/version.py"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    built = tmp_path / "built/detectron2_agssp/scoring/kead/builtin"
    assert sorted(path.stem for path in built.iterdir()) == builtin_descriptions()


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ("# nothing but a comment\n", 1, "the file is empty"),
        ("{}\n", 1, "describes no object"),
        ("\n- strip\n", 2, "The file is a list; expected objects"),
        ("just text\n", 1, "The file is the text 'just text'"),
        ("strip:\n  - pit\n", 1, "Object 'strip' is a list"),
        ("\nstrip:\n", 2, "Object 'strip' is empty; expected a mapping"),
        ("strip: shiny\n", 1, "Object 'strip' is the text 'shiny'"),
        ("strip:\n  normal: [even]\n", 1, "lacks 'defects'. It needs: normal, defects"),
        (strip().replace("normal", "good"), 2, "unknown key 'good'. Known: normal, defects"),
        (strip(normal="[]"), 2, "`normal` of Object 'strip' is an empty list"),
        (strip(defects="[]"), 3, "`defects` of Object 'strip' is an empty list"),
        (strip(normal="even"), 2, "is the text 'even'; expected a list"),
        (strip(defects="{name: pit, appearance: dark}"), 3, "is a mapping; expected a list"),
        (strip(defects=""), 3, "`defects` of Object 'strip' is empty; expected a list"),
        (strip(normal="[even, 3]"), 2, r"normal state of Object 'strip' is 3 \(int\); .*quotes"),
        (strip(normal="[yes]"), 2, r"is yes \(bool\)"),
        (strip(normal="\n  - even\n  - rust: none"), 4, "is a mapping; expected text"),
        (strip(normal="['  ']"), 2, "A normal state of Object 'strip' is empty"),
        (strip(normal="['{object} is even']"), 2, "braces other than {}"),
        ("3:\n  normal: [even]\n", 1, r"A key in the file is 3 \(int\)"),
        (strip(defects="\n  - pit"), 4, "A defect of Object 'strip' is the text 'pit'"),
        (strip(defects="[{name: pit}]"), 3, "lacks 'appearance'"),
        (strip(defects="[{appearance: dark}]"), 3, "lacks 'name'"),
        (strip(defects="[{name: pit, look: dark}]"), 3, "unknown key 'look'"),
        (strip(defects="[{name: 1, appearance: dark}]"), 3, r"name of a defect .* is 1 \(int\)"),
        (strip(defects="\n  - name: pit\n    appearance:"), 5, "appearance of 'pit' is empty"),
        (
            strip(defects="\n  - {name: pit, appearance: a}\n  - {name: Pit, appearance: b}"),
            5,
            "has the defect 'Pit' twice",
        ),
        (strip() + strip(), 4, "'strip' was there already, in line 1"),
        ("strip:\n  normal: [a]\n  normal: [b]\n", 3, "'normal' was there already, in line 2"),
        ("strip:\n  normal: [even\n  defects: x\n", 3, "not yaml"),
        ("strip:\n\tnormal: [even]\n", 2, "not yaml"),
        (strip(normal="\n  - rough: dark: grey"), 3, "not yaml .*needs quotes"),
        ("strip: &a\n  normal: *b\n", 2, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "not yaml"),
        ("a:\n  b: \x07\n", 2, "is not allowed in yaml"),
        (b"a: b\nc: \xff\n", 2, "Save the file as UTF-8"),
    ],
)
def test_mistakes_in_yaml(write, content, line, message):
    path = write(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_descriptions(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


def broken(change):
    content = json.loads(json.dumps(RELEASED))
    change(content["tube_set"])
    return json.dumps(content, indent=1)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ('{"a": 1,\n "b" 2}', 2, "not JSON .*yaml"),
        ("a: b\n", 1, "not JSON"),
        ('{"a": {"normal": ["x"],\n "defects": [null]}}', 2, "is empty; expected `name`"),
        ('{"a": {"normal": ["x"],\n "defects": 5}}', 2, r"is 5 \(int\)"),
        (broken(lambda tube: tube.pop("map")), 2, "lacks 'map'"),
        (broken(lambda tube: tube["des"].pop("good")), 3, "lacks 'good'"),
        (broken(lambda tube: tube["des"].update(bad=[])), 15, "unknown key 'bad'"),
        (broken(lambda tube: tube.update(other=1)), 20, "unknown key 'other'. Known: des, map"),
        (broken(lambda tube: tube["des"].update(good=[])), 4, "empty list"),
        (broken(lambda tube: tube["des"].update(good=["fine"])), 5, "has no {}: 'fine'"),
        (broken(lambda tube: tube.update(map=3)), 16, r"`map` of Object 'tube_set' is 3"),
        (broken(lambda tube: tube.update(des=[])), 3, "`des` of Object 'tube_set' is an empty"),
    ],
)
def test_mistakes_in_json(write, content, line, message):
    path = write(content, "mine.json")
    with pytest.raises(ValueError, match=message) as caught:
        load_descriptions(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a file nor built in") as caught:
        load_descriptions(tmp_path / "none.yaml")
    assert all(name in str(caught.value) for name in builtin_descriptions())
    with pytest.raises(FileNotFoundError, match="Did you mean 'neu_det'"):
        load_descriptions("neu-det")
    with pytest.raises(FileNotFoundError, match="neither a file"):
        load_descriptions(tmp_path)
