"""YAML whose keys stand once."""

import pytest
import yaml

from detectron2_agssp.io.unique_keys import UniqueKeyLoader


def test_a_key_twice_is_refused_wherever_it_is():
    assert yaml.load("a: {b: [1, {c: 2}]}", Loader=UniqueKeyLoader) == {"a": {"b": [1, {"c": 2}]}}
    for text in ("a: 1\nb: 2\na: 3", "a: [{b: 1, B: 2}]", "0: x\n0: y"):
        with pytest.raises(ValueError, match=r"'[ab0]' is there twice\. Rename or remove one"):
            yaml.load(text, Loader=UniqueKeyLoader)


def test_objects_are_not_made():
    with pytest.raises(yaml.YAMLError):
        yaml.load("a: !!python/object/apply:os.getcwd []", Loader=UniqueKeyLoader)
