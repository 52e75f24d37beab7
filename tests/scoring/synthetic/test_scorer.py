"""The scorer `synthetic`: it learns, keeps what it learned, and refuses what it cannot use."""

import pytest
import torch

from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer
from detectron2_agssp.maps.generate import generate_anomaly_maps
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.scoring import SyntheticScorer, build_anomaly_scorer
from detectron2_agssp.scoring.synthetic import scorer as module
from tests.scoring.tiny_features import CellFeatures, make_images, make_surfaces

SHORT = {"iterations": 3, "batch_size": 2, "width": 4}


def make_scorer(**settings):
    return SyntheticScorer(features=CellFeatures(), **{**SHORT, **settings})


@pytest.fixture(scope="module")
def images():
    return make_surfaces(6, 64, 96)


@pytest.fixture(scope="module")
def fitted(images):
    return make_scorer().fit(images)


def test_a_defect_that_was_never_drawn_stands_out(images):
    scorer = make_scorer(iterations=40, batch_size=4, width=8, base_lr=0.01).fit(images)
    damaged = images[:1].clone()
    damaged[:, :, 24:36, 40:60] = 10
    maps = scorer(damaged).maps.sigmoid()
    inside = torch.zeros(16, 24, dtype=torch.bool)
    inside[6:9, 10:15] = True
    assert maps.shape == (1, 16, 24)
    assert maps[0, inside].mean() > 2 * maps[0, ~inside].mean()
    assert maps[0, inside].mean() > 2 * scorer(images[:1]).maps.sigmoid()[0, inside].mean()


def test_the_loss_falls(images, monkeypatch):
    losses = []
    original = module.drawn_defect_loss

    def recorded(*arguments):
        losses.append(original(*arguments))
        return losses[-1]

    monkeypatch.setattr(module, "drawn_defect_loss", recorded)
    make_scorer(iterations=30, width=8, base_lr=0.01).fit(images)
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_fits_the_same_again_and_from_any_batches(fitted, images):
    others = (make_scorer().fit(iter(images.split(4))), make_scorer().fit(images).fit(images))
    for other in others:
        torch.testing.assert_close(other.state_dict(), fitted.state_dict(), rtol=0, atol=0)
    seeded = make_scorer(seed=1).fit(images)
    assert not torch.equal(seeded(images).maps, fitted(images).maps)


def test_the_users_random_numbers_stay_as_they_are(images):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_scorer().fit(images)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_learned_state_is_all_that_is_learned(fitted, images):
    other = make_scorer()
    other.load_learned_state(fitted.learned_state())
    torch.testing.assert_close(other(images), fitted(images), rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict(), fitted.state_dict(), rtol=0, atol=0)


def test_another_scorers_state_is_refused(fitted):
    state = fitted.learned_state()
    with pytest.raises(ValueError, match=r"state's 'decoder' has other shapes.*'hidden\.weight'"):
        make_scorer(width=5).load_learned_state(state)
    with pytest.raises(ValueError, match="scorer's state has"):
        make_scorer().load_learned_state({"mean": torch.zeros(3)})


def test_only_the_decoder_learns(images):
    """Also where gradients are switched off outside."""
    scorer = make_scorer()
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}
    with torch.no_grad():
        scorer.fit(images)
    changed = {
        name
        for name, tensor in scorer.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {name for name in before if not name.startswith("features.")}
    assert not scorer(images.clone().requires_grad_()).maps.requires_grad


def test_each_image_is_scored_by_itself(fitted):
    images = make_surfaces(4, 64, 96, seed=1)
    together = fitted(images)
    torch.testing.assert_close(together.scores, together.maps.flatten(1).amax(dim=1))
    for index in range(4):
        torch.testing.assert_close(fitted(images[index : index + 1]).maps[0], together.maps[index])
    images[2] = torch.nan
    maps = fitted(images).maps
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[[0, 1, 3]], together.maps[[0, 1, 3]])


def test_one_image_and_none(images):
    scorer = make_scorer().fit(images[:1])
    empty = scorer(images[:0])
    assert empty.maps.shape == (0, 16, 24)
    assert empty.scores.shape == (0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no images to fit on"),
        (make_images(0), "no images to fit on"),
        (make_images(2) * torch.nan, "Images to fit on are not finite"),
        (make_images(2)[:, :1], r"RGB, \(N, 3, H, W\).*got shape \(2, 1, 16, 24\)"),
    ],
)
def test_unfit_images(given, message):
    scorer = make_scorer()
    with pytest.raises(ValueError, match=message):
        scorer.fit(given)
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(images\)"):
        scorer(make_images(1))


def test_features_that_overflow_are_refused(images):
    scorer = make_scorer()
    scorer.features.fine.fill_(torch.inf)
    with pytest.raises(ValueError, match="features are not finite: check the network's weights"):
        scorer.fit(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "SYNTHETIC.ITERATIONS must be positive, got 0"),
        ({"batch_size": -1}, "SYNTHETIC.BATCH_SIZE must be positive, got -1"),
        ({"base_lr": 0.0}, "SYNTHETIC.BASE_LR must be positive, got 0"),
        ({"width": 0}, "SYNTHETIC.WIDTH must be positive"),
        ({"pool": 0}, "SYNTHETIC.POOL must be positive"),
        ({"ignored": 1.0}, r"SYNTHETIC.IGNORED must be in \[0, 1\), got 1.0"),
        ({"image_size": 0}, "IMAGE_SIZE must be positive, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_scorer(**settings)


@pytest.fixture
def synthetic_cfg(tiny_cfg):
    tiny_cfg.AGSSP.SCORER.NAME = "synthetic"
    short = {"ITERATIONS": 2, "BATCH_SIZE": 2, "WIDTH": 4}
    for key, value in short.items():
        tiny_cfg.AGSSP.SCORER.SYNTHETIC[key] = value
    return tiny_cfg


def test_a_map_folder_keeps_it(synthetic_cfg, image_folder, tmp_path):
    """To the same bytes, by a run that goes on as by one that starts again."""
    roots = [tmp_path / name for name in ("whole", "again")]
    for root in roots:
        generate_anomaly_maps(synthetic_cfg, image_folder, root, progress=False)
    lost = next((roots[1] / "maps").rglob("*.npy"))
    lost.unlink()
    assert generate_anomaly_maps(synthetic_cfg, image_folder, roots[1], progress=False).scored == 1
    entries = list(MapStore(roots[0]).entries())
    assert len(entries) == 6
    for entry in entries:
        first, second = ((root / entry["map"]).read_bytes() for root in roots)
        assert first == second
    loaded, _ = load_fitted_scorer(synthetic_cfg, roots[0])
    other, _ = load_fitted_scorer(synthetic_cfg, roots[1])
    images = make_images(2, 64, 64)
    assert torch.equal(loaded(images).maps, other(images).maps)


def test_a_killed_fit_leaves_nothing_and_starts_again(
    synthetic_cfg, image_folder, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "drawn_defect_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            generate_anomaly_maps(synthetic_cfg, image_folder, tmp_path, progress=False)
    assert MapStore(tmp_path).read_scorer() is None
    assert generate_anomaly_maps(synthetic_cfg, image_folder, tmp_path, progress=False).scored == 6


def test_built_from_the_config(synthetic_cfg):
    synthetic_cfg.AGSSP.SCORER.SYNTHETIC.IGNORED = 0.25
    scorer = build_anomaly_scorer(synthetic_cfg)
    assert (scorer.iterations, scorer.ignored, scorer.width, scorer.seed) == (2, 0.25, 4, 0)
    assert scorer.image_size == 64
    assert not scorer.training
