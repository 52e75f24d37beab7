"""Text features on disk: computed once, never another object's or model's, or a damaged file's."""

import logging
import re

import numpy as np
import pytest
import torch

from detectron2_agssp.scoring.kead import prompts as prompts_module
from detectron2_agssp.scoring.kead import text_cache
from detectron2_agssp.scoring.kead.descriptions import Defect, ObjectDescription
from detectron2_agssp.scoring.kead.prompts import TEMPLATES, build_text_features
from detectron2_agssp.scoring.kead.text_cache import (
    cached_text_features,
    default_cache_dir,
    load_text_features,
    text_weights_fingerprint,
)
from tests.scoring.kead_texts import PIT, SCALE, STRIP, small_clip


@pytest.fixture
def encodings(monkeypatch):
    """Counts how often features are computed."""
    calls = []
    build = prompts_module.build_text_features

    def counted(*arguments, **settings):
        calls.append(1)
        return build(*arguments, **settings)

    monkeypatch.setattr(text_cache, "build_text_features", counted)
    return calls


def assert_same(first, second):
    assert first.defect_names == second.defect_names
    for one, other in zip(first[:4], second[:4], strict=True):
        assert torch.equal(one, other)


def test_features_are_computed_once(clip_model, tokenizer, tmp_path, encodings):
    settings = {"weights_fingerprint": "w", "cache_dir": tmp_path / "new" / "folder"}
    first = cached_text_features(clip_model, tokenizer, STRIP, **settings)
    second = cached_text_features(clip_model, tokenizer, STRIP, **settings)
    assert len(encodings) == 1
    assert_same(first, second)
    assert_same(first, build_text_features(clip_model, tokenizer, STRIP))
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert re.fullmatch(r"text_[0-9a-f]{40}\.npz", file.name)
    with np.load(file) as archive:
        assert {name: archive[name].shape for name in archive} == {
            "normal": (48,),
            "anomaly": (48,),
            "empty": (48,),
            "defects": (2, 48),
        }


def test_what_the_features_depend_on_is_in_the_key(open_clip, tokenizer, tmp_path, monkeypatch):
    """Other weights, texts and templates never get a stored file of these."""
    clips = small_clip(open_clip, 0), small_clip(open_clip, 1)

    def features(clip=0, obj=STRIP, **settings):
        settings = {"weights_fingerprint": f"weights {clip}", "cache_dir": tmp_path, **settings}
        cached = cached_text_features(clips[clip], tokenizer, obj, **settings)
        assert_same(cached, cached_text_features(clips[clip], tokenizer, obj, **settings))
        return cached

    original = features()
    assert not torch.equal(original.normal, features(clip=1).normal)
    others = (
        ObjectDescription("brass", STRIP.normal_states, STRIP.defects),
        ObjectDescription("steel_strip", ("an even face",), STRIP.defects),
        ObjectDescription("steel_strip", STRIP.normal_states, (PIT,)),
        ObjectDescription("steel_strip", STRIP.normal_states, (SCALE, PIT)),
        ObjectDescription("steel_strip", STRIP.normal_states, (Defect("deep_pit", "x"), SCALE)),
    )
    for obj in others:
        assert_same(features(obj=obj), build_text_features(clips[0], tokenizer, obj))
    monkeypatch.setattr(prompts_module, "TEMPLATES", TEMPLATES[:5])
    assert not torch.equal(original.normal, features().normal)
    assert len(list(tmp_path.iterdir())) == 8


def damage(kind, path):
    content = path.read_bytes()
    if kind == "arrays":
        np.savez(path, normal=np.zeros(3, np.float32))
    elif kind in ("nan", "shape", "type"):
        with np.load(path) as archive:
            arrays = dict(archive)
        arrays["anomaly"] = {
            "nan": np.full(48, np.nan, np.float32),
            "shape": arrays["anomaly"][:7],
            "type": arrays["anomaly"].astype(np.int64),
        }[kind]
        np.savez(path, **arrays)
    else:
        # A bit inside an array, half a file, no file's content at all.
        flipped = bytearray(content)
        flipped[300] ^= 1
        path.write_bytes({"bit": bytes(flipped), "half": content[:700], "none": b""}[kind])


@pytest.mark.parametrize("kind", ["none", "half", "bit", "arrays", "nan", "shape", "type"])
def test_damaged_files_are_made_again(clip_model, tokenizer, tmp_path, encodings, caplog, kind):
    settings = {"weights_fingerprint": "w", "cache_dir": tmp_path}
    first = cached_text_features(clip_model, tokenizer, STRIP, **settings)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    damage(kind, path)
    assert path.read_bytes() != content
    with caplog.at_level(logging.WARNING):
        assert_same(first, cached_text_features(clip_model, tokenizer, STRIP, **settings))
    assert "making them again" in caplog.text
    cached_text_features(clip_model, tokenizer, STRIP, **settings)
    assert len(encodings) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_no_cache(clip_model, tokenizer, tmp_path, monkeypatch, encodings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        cached_text_features(clip_model, tokenizer, STRIP, weights_fingerprint="", cache_dir="")
    assert len(encodings) == 2
    assert not list(tmp_path.iterdir())


def test_default_folder(clip_model, tokenizer, tmp_path, monkeypatch, encodings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for _ in range(2):
        cached_text_features(clip_model, tokenizer, STRIP, weights_fingerprint="w")
    assert len(encodings) == 1
    assert len(list((tmp_path / "xdg" / "detectron2_agssp").iterdir())) == 1
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache_dir() == tmp_path / "home" / ".cache" / "detectron2_agssp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "detectron2_agssp"


def test_a_folder_that_cannot_be_written(clip_model, tokenizer, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        features = cached_text_features(
            clip_model, tokenizer, STRIP, weights_fingerprint="w", cache_dir=tmp_path / "file"
        )
    assert_same(features, build_text_features(clip_model, tokenizer, STRIP))
    assert "cannot be kept" in caplog.text


def test_a_fingerprint_is_needed(clip_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="weights_fingerprint is empty"):
        cached_text_features(
            clip_model, tokenizer, STRIP, weights_fingerprint="", cache_dir=tmp_path
        )


# ---- of a model by its name ----------------------------------------------------------------------


def test_fingerprint_is_of_the_text_weights(open_clip):
    clip_model = small_clip(open_clip)
    before = text_weights_fingerprint(clip_model)
    assert before == text_weights_fingerprint(small_clip(open_clip))
    assert before != text_weights_fingerprint(small_clip(open_clip, seed=1))
    with torch.no_grad():
        for weight in clip_model.visual.parameters():
            weight.add_(1)
        clip_model.logit_scale.add_(1)
        assert text_weights_fingerprint(clip_model) == before
        clip_model.ln_final.bias[3] += 1e-4
    assert text_weights_fingerprint(clip_model) != before
    assert text_weights_fingerprint(clip_model.bfloat16()) != before


def test_the_model_by_its_name_is_in_the_key(clip_model, tmp_path, encodings):
    """With another activation the same weights give other features."""
    for _ in range(2):
        for model in ("ViT-B-16", "ViT-B-16-quickgelu"):
            load_text_features(clip_model, model, STRIP, cache_dir=tmp_path)
    assert len(encodings) == len(list(tmp_path.iterdir())) == 2


def test_features_by_model_name(clip_model, tokenizer, tmp_path, encodings):
    for _ in range(2):
        features = load_text_features(clip_model, "ViT-B-16-plus-240", STRIP, cache_dir=tmp_path)
        assert_same(features, build_text_features(clip_model, tokenizer, STRIP))
    assert len(encodings) == 1
