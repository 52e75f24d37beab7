"""A scorer fitted for each source: what it learns of which, and what a folder keeps of it."""

import pytest
import torch

from detectron2_agssp.scoring import (
    EnsembleScorer,
    MahalanobisScorer,
    MemoryScorer,
    MutualScorer,
    PerSourceScorer,
    build_anomaly_scorer,
)
from tests.scoring.third_party import Brightness
from tests.scoring.tiny_features import CellFeatures, make_images, make_surfaces


def make_sources():
    """Three sources that are nothing like each other."""
    noise, surfaces = make_images(4, 32, 48), make_surfaces(5, 32, 48)
    return {"noise": noise, "stripes ü": surfaces, "1": 255 - surfaces[:4] / 2}


def make_mahalanobis():
    return MahalanobisScorer(features=CellFeatures(center=False))


def make_memory():
    return MemoryScorer(features=CellFeatures(center=False), size=20)


def make_ensemble():
    mutual = MutualScorer(features=CellFeatures(), image_size=32, references=3)
    return EnsembleScorer(
        members=[MahalanobisScorer(features=CellFeatures(), image_size=48), mutual]
    )


SCORERS = [make_mahalanobis, make_memory, make_ensemble]


@pytest.mark.parametrize("make", SCORERS)
def test_each_source_has_what_it_would_have_alone(make):
    sources = make_sources()
    scorer = PerSourceScorer(scorer=make()).fit(sources)
    assert scorer.sources == ["noise", "stripes ü", "1"]
    alone = {}
    for source, images in sources.items():
        alone[source] = make().fit({source: images} if make is make_ensemble else images)
    # Nothing is left of the source before.
    for source in ("1", "noise", "1", "stripes ü", "stripes ü", "noise"):
        images = make_images(3, 32, 48, seed=1)
        expected = alone[source].score(images, source)
        result = scorer.score(images, source)
        torch.testing.assert_close(result.maps, expected.maps, rtol=0, atol=0)
        torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=0)


@pytest.mark.parametrize("make", SCORERS)
def test_another_source_is_scored_by_a_fit_on_all(make):
    sources, images = make_sources(), make_images(3, 32, 48, seed=1)
    scorer = PerSourceScorer(scorer=make()).fit(sources)
    every = [batch[None] for own in sources.values() for batch in own]
    whole = make().fit(sources if make is make_ensemble else [torch.cat(every)])
    torch.testing.assert_close(scorer.score(images, "new").maps, whole.score(images, "new").maps)
    own = scorer.score(images, "noise").maps
    assert (own - scorer.score(images, "new").maps).abs().max() > 1e-3


def test_images_of_no_source_are_one():
    images = make_images(4)
    scorer = PerSourceScorer(scorer=make_mahalanobis()).fit(iter(images.split(2)))
    assert scorer.sources == []
    expected = make_mahalanobis().fit(images)(images).maps
    torch.testing.assert_close(scorer.score(images, "").maps, expected)


def test_fitted_again_it_forgets():
    scorer = PerSourceScorer(scorer=make_mahalanobis()).fit(make_sources())
    again = make_images(3, seed=5)
    scorer.fit({"a": again[:2], "b": again[1:]})
    assert scorer.sources == ["a", "b"]
    expected = make_mahalanobis().fit(again[:2])(again).maps
    torch.testing.assert_close(scorer.score(again, "a").maps, expected, rtol=0, atol=0)


@pytest.mark.parametrize("make", SCORERS)
def test_what_a_folder_keeps(make):
    """Without the network, which is there once; whichever source was scored last."""
    images = make_images(2, 32, 48, seed=1)
    scorer = PerSourceScorer(scorer=make()).fit(make_sources())
    used = scorer.computed_with()
    scorer.score(images, "1")
    for name, tensor in scorer.computed_with().items():
        torch.testing.assert_close(tensor, used[name], rtol=0, atol=0)
    assert sum("fine" in name for name in used) == (2 if make is make_ensemble else 1)
    state = scorer.learned_state()
    assert not any("fine" in name for name in state)
    restored = PerSourceScorer(scorer=make())
    restored.load_learned_state(state)
    assert restored.sources == scorer.sources
    assert set(restored.computed_with()) == set(used)
    for source in ("1", "noise", "stripes ü", "new"):
        expected = scorer.score(images, source).maps
        torch.testing.assert_close(restored.score(images, source).maps, expected, rtol=0, atol=0)


def test_a_network_is_part_of_what_it_computes_with():
    scorers = [PerSourceScorer(scorer=make_mahalanobis()).fit(make_sources()) for _ in range(2)]
    scorers[1].scorer.features.fine += 1
    different = [
        name
        for name, tensor in scorers[0].computed_with().items()
        if not torch.equal(tensor, scorers[1].computed_with()[name])
    ]
    assert different == ["features.fine"]


def damaged(state, kind):
    state = dict(state)
    if kind == "no sources":
        del state["sources"]
    elif kind == "other sources":
        state["sources"] = torch.tensor(list(b"a\0b\0"), dtype=torch.uint8)
    elif kind == "twice":
        state["sources"] = torch.tensor(list(b"a\0a\0b\0"), dtype=torch.uint8)
    elif kind == "numbers":
        state["sources"] = torch.ones(3)
    elif kind == "an array less":
        del state["1.mean"]
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no sources", "has no sources"),
        ("numbers", "has no sources"),
        ("other sources", "has 13 arrays, expected 10, of 2 sources"),
        ("twice", "has 13 arrays, expected 13, of 3 sources"),
        ("an array less", "has 12 arrays, expected 13, of 3 sources"),
    ],
)
def test_a_damaged_state(kind, message):
    scorer = PerSourceScorer(scorer=make_mahalanobis()).fit(make_sources())
    with pytest.raises(ValueError, match=message):
        scorer.load_learned_state(damaged(scorer.learned_state(), kind))


def test_a_source_that_cannot_be_fitted_is_named():
    sources = {**make_sources(), "blank": torch.zeros(3, 3, 32, 48)}
    with pytest.raises(ValueError, match=r"PER_SOURCE: the source 'blank' cannot .* all alike"):
        PerSourceScorer(scorer=make_mahalanobis()).fit(sources)
    with pytest.raises(ValueError, match=r"^The mahalanobis scorer was given no images"):
        PerSourceScorer(scorer=make_mahalanobis()).fit([])


def test_it_has_to_be_fitted():
    with pytest.raises(RuntimeError, match="not fitted"):
        PerSourceScorer(scorer=make_mahalanobis()).score(make_images(1), "a")


def test_what_is_built(tiny_cfg):
    """By the key, of scorers that learn something of a folder."""
    scorer = tiny_cfg.AGSSP.SCORER
    scorer.MODEL = "resnet10t"
    plain = build_anomaly_scorer(tiny_cfg)
    scorer.PER_SOURCE = True
    built = build_anomaly_scorer(tiny_cfg)
    assert isinstance(built, PerSourceScorer)
    assert isinstance(built.scorer, MahalanobisScorer)
    assert built.told_source
    assert not plain.told_source
    assert not built.training
    for name in ("image_size", "stride", "size_divisor", "noise"):
        assert getattr(built, name) == getattr(plain, name)
    scorer.NAME = "mutual"
    assert isinstance(build_anomaly_scorer(tiny_cfg), MutualScorer)


def test_settings_of_the_scorer_hold():
    inner = Brightness()
    inner.noise = 0.25
    assert PerSourceScorer(scorer=inner).noise == 0.25
