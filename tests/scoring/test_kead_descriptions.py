"""Descriptions: what is read, and that every mistake is named with its line and a way out."""

import json

import pytest

from detectron2_agssp.data.builtin import CLASSES
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
        ("neu_det", CLASSES["neu_det"]),
        ("magnetic_tile", [name.lower() for name in CLASSES["magnetic_tile"]]),
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


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "The file is empty"),
        ("# nothing but a comment\n", "The file is empty"),
        ("{}\n", "describes no object"),
        ("\n- strip\n", r"The file is \['strip'\]; expected .* objects"),
        ("just text\n", "The file is 'just text'"),
        ("strip:\n  - pit\n", r"'strip' is \['pit'\]"),
        ("\nstrip:\n", "'strip' is empty; expected a mapping"),
        ("strip: shiny\n", "'strip' is 'shiny'"),
        ("strip:\n  normal: [even]\n", "lacks defects. It needs: normal, defects"),
        (strip().replace("normal", "good"), "unknown key 'good'. Known: normal, defects"),
        (strip(normal="[]"), "`normal` of 'strip' is empty; expected a list"),
        (strip(defects="[]"), "`defects` of 'strip' is empty; expected a list"),
        (strip(normal="even"), "is 'even'; expected a list"),
        (
            strip(defects="{name: pit, appearance: dark}"),
            "'dark', .*}; expected a list",
        ),
        (strip(defects=""), "`defects` of 'strip' is empty; expected a list"),
        (strip(normal="[even, 3]"), "state in `normal` of 'strip' is 3; .*quotes"),
        (strip(normal="[yes]"), "is True; expected text"),
        (strip(normal="\n  - even\n  - rust: none"), "is {'rust': 'none'}; expected text"),
        (strip(normal="['  ']"), "A state in `normal` of 'strip' is empty"),
        (strip(normal="['{object} is even']"), "braces other than {}"),
        ("3:\n  normal: [even]\n", "An object's name is 3"),
        (strip(defects="\n  - pit"), "A defect of 'strip' is 'pit'"),
        (strip(defects="[{name: pit}]"), "lacks appearance"),
        (strip(defects="[{appearance: dark}]"), "lacks name"),
        (strip(defects="[{name: pit, look: dark}]"), "unknown key 'look'"),
        (strip(defects="[{name: 1, appearance: dark}]"), "`name` of a defect .* is 1;"),
        (strip(defects="\n  - name: pit\n    appearance:"), "`appearance` of 'pit' is empty"),
        (
            strip(defects="\n  - {name: pit, appearance: a}\n  - {name: Pit, appearance: b}"),
            "has the defect 'Pit' twice",
        ),
        (strip() + strip(), "'strip' is there twice"),
        ("strip:\n  normal: [a]\n  normal: [b]\n", "'normal' is there twice"),
        ("strip:\n  normal: [even\n  defects: x\n", "not yaml"),
        ("strip:\n\tnormal: [even]\n", "not yaml"),
        (strip(normal="\n  - rough: dark: grey"), "not yaml.*needs quotes"),
        ("strip: &a\n  normal: *b\n", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "not yaml"),
        ("a:\n  b: \x07\n", "not yaml.*not allowed"),
        (f"a: {'[' * 3000}", "not yaml"),
        ("? [a]\n: b\n", "unhashable key"),
        (b"a: b\nc: \xff\n", "Save it as UTF-8"),
    ],
)
def test_mistakes_in_yaml(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_descriptions(path)
    assert str(caught.value).startswith(str(path))


def broken(change):
    content = json.loads(json.dumps(RELEASED))
    change(content["tube_set"])
    return json.dumps(content, indent=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "The file is empty"),
        ('{"a": 1,\n "b" 2}', "not JSON .*yaml"),
        ("a: b\n", "not JSON"),
        ('{"a": {"normal": ["x"],\n "defects": [null]}}', "A defect of 'a' is empty; expected"),
        ('{"a": {"normal": ["x"],\n "defects": 5}}', "`defects` of 'a' is 5; expected"),
        (broken(lambda tube: tube.pop("map")), "lacks map"),
        (broken(lambda tube: tube["des"].pop("good")), "lacks good"),
        (broken(lambda tube: tube["des"].update(bad=[])), "unknown key 'bad'"),
        (broken(lambda tube: tube.update(other=1)), "unknown key 'other'. Known: des, map"),
        (broken(lambda tube: tube["des"].update(good=[])), "`good` of 'tube_set' is empty"),
        (
            broken(lambda tube: tube["des"].update(good=["fine"])),
            "has no {} for the object: 'fine'",
        ),
        (broken(lambda tube: tube.update(map=3)), "`map` of 'tube_set' is 3"),
        (broken(lambda tube: tube.update(des=[])), "`des` of 'tube_set' is empty"),
    ],
)
def test_mistakes_in_json(write, content, message):
    path = write(content, "mine.json")
    with pytest.raises(ValueError, match=message) as caught:
        load_descriptions(path)
    assert str(caught.value).startswith(str(path))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a file nor built in") as caught:
        load_descriptions(tmp_path / "none.yaml")
    assert all(name in str(caught.value) for name in builtin_descriptions())
    with pytest.raises(FileNotFoundError, match="Did you mean 'neu_det'"):
        load_descriptions("neu-det")
    with pytest.raises(FileNotFoundError, match="neither a file"):
        load_descriptions(tmp_path)
