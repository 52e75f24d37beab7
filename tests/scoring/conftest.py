"""KeAD on a small random CLIP, for the tests of it."""

import pytest

from detectron2_agssp.scoring import build_anomaly_scorer
from tests.scoring.kead_texts import small_clip
from tests.small_clip import clip_settings


@pytest.fixture(scope="session")
def kead_settings(tmp_path_factory):
    return clip_settings(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def kead_cfg(tiny_cfg, kead_settings, monkeypatch):
    """A config of the small KeAD, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny_cfg.AGSSP.SCORER.NAME = "kead"
    tiny_cfg.merge_from_list(kead_settings)
    return tiny_cfg


@pytest.fixture
def build(kead_cfg):
    """A function that builds KeAD with the given keys of AGSSP.SCORER.KEAD."""

    def built(*, precision="fp32", **keys):
        cfg = kead_cfg.clone()
        cfg.AGSSP.SCORER.PRECISION = precision
        for key, value in keys.items():
            cfg.merge_from_list([f"AGSSP.SCORER.KEAD.{key}", value])
        return build_anomaly_scorer(cfg)

    return built


@pytest.fixture(scope="module")
def open_clip():
    return pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def tokenizer(open_clip):
    return open_clip.get_tokenizer("ViT-B-16-plus-240")


@pytest.fixture(scope="module")
def clip_model(open_clip):
    return small_clip(open_clip)
