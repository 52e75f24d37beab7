"""Energies as maps: against a plain computation, what it refuses, and a backbone's own energies."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg

from detectron2_agssp.maps import generate_anomaly_maps
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer, recorded_config
from detectron2_agssp.scoring import EnergyScorer, build_anomaly_scorer
from tests.scoring.tiny_features import CellFeatures, make_images


def make_scorer(**settings):
    return EnergyScorer(features=CellFeatures(), **settings)


def test_against_the_definition():
    fitted, images = make_images(3), make_images(2, seed=1)
    result = make_scorer().fit(fitted)(images)
    expected = torch.zeros(2, 1, 4, 6)
    for known, level in zip(
        CellFeatures().levels(fitted), CellFeatures().levels(images), strict=True
    ):
        mean = (known.double() ** 2).sum(dim=1).mean()
        relative = ((level.double() ** 2).sum(dim=1, keepdim=True) / mean).float()
        expected += F.interpolate(relative, (4, 6), mode="bilinear", align_corners=False) / 2
    assert result.maps.dtype == torch.float32
    torch.testing.assert_close(result.maps, expected[:, 0])
    torch.testing.assert_close(result.scores, result.maps.flatten(1).amax(dim=1))


def test_batches_change_nothing():
    images = make_images(4, seed=1)
    scorer = make_scorer().fit(images.split(3))
    torch.testing.assert_close(scorer.mean_energy, make_scorer().fit(images).mean_energy)
    together = scorer(images)
    images[2] = torch.nan
    maps = scorer(images).maps
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[[0, 1, 3]], together.maps[[0, 1, 3]])


def test_none_and_other_sizes():
    scorer = make_scorer().fit([make_images(0), make_images(1), make_images(1, 32, 8)])
    empty = scorer(make_images(0))
    assert empty.maps.shape == (0, 4, 6)
    assert empty.scores.shape == (0,)
    assert scorer(make_images(1, 8, 32)).maps.shape == (1, 2, 8)


def test_learned_state():
    scorer, images = make_scorer().fit(make_images(3)), make_images(2, seed=1)
    other = make_scorer()
    other.load_learned_state(scorer.learned_state())
    torch.testing.assert_close(other(images), scorer(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images to fit on"),
        (make_images(2) * torch.nan, "not finite: check the network's weights"),
        (torch.full((2, 3, 16, 24), 128.0), r"is zero on all images.*IN_FEATURES"),
        (make_images(2)[:, :1], r"got shape \(2, 1, 16, 24\)"),
    ],
)
def test_unfit_images(images, message):
    scorer = make_scorer()
    with pytest.raises(ValueError, match=message):
        scorer.fit(images)
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(images\)"):
        scorer(make_images(1))


def test_of_a_backbone(tiny_cfg, image_folder, tmp_path):
    """By the registry: the energies that AGBP trains, of a Detectron2 backbone."""
    tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    tiny_cfg.AGSSP.TIMM.WEIGHTS = ""
    tiny_cfg.MODEL.WEIGHTS = ""
    scorer_cfg = tiny_cfg.AGSSP.SCORER
    scorer_cfg.NAME, scorer_cfg.FEATURES = "energy", "detectron2"
    scorer_cfg.IN_FEATURES = ("res4",)
    scorer = build_anomaly_scorer(tiny_cfg)
    images = make_images(2, 64, 96)
    maps = scorer.fit(images)(images).maps
    features = scorer.features
    mean, std = features.mean, features.std
    level = features.backbone((images[:, features.order] - mean) / std)["res4"]
    energies = level.square().sum(dim=1)
    torch.testing.assert_close(maps, energies / energies.mean(), rtol=1e-4, atol=1e-5)
    summary = generate_anomaly_maps(tiny_cfg, image_folder, tmp_path / "maps", progress=False)
    assert (summary.scored, summary.skipped) == (6, 0)


def test_a_folder_finds_the_weights_of_its_backbone(tiny_cfg, image_folder, tmp_path, monkeypatch):
    """From any working folder, with any config at hand; gone, they are named."""
    tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    tiny_cfg.AGSSP.TIMM.WEIGHTS = ""
    scorer_cfg = tiny_cfg.AGSSP.SCORER
    scorer_cfg.NAME, scorer_cfg.FEATURES = "energy", "detectron2"
    scorer_cfg.IN_FEATURES = ("res4",)
    backbone = build_anomaly_scorer(tiny_cfg).features.backbone.state_dict()
    weights = tmp_path / "weights.pth"
    for value in backbone.values():
        # A random backbone is always the same one.
        if value.is_floating_point():
            value *= 1.01
    torch.save({"model": {f"backbone.{name}": value for name, value in backbone.items()}}, weights)
    monkeypatch.chdir(tmp_path)
    tiny_cfg.MODEL.WEIGHTS = "weights.pth"
    tiny_cfg.INPUT.FORMAT, tiny_cfg.AGSSP.TIMM.NORM = "RGB", ""
    generate_anomaly_maps(tiny_cfg, image_folder, tmp_path / "maps", progress=False)
    monkeypatch.chdir(tmp_path.parent)

    own = get_cfg()
    own.MODEL.WEIGHTS, own.MODEL.DEVICE = "", "cpu"
    cfg = recorded_config(own, tmp_path / "maps")
    assert str(weights) == cfg.MODEL.WEIGHTS
    scorer, _ = load_fitted_scorer(cfg, tmp_path / "maps")
    loaded = scorer.features.backbone.state_dict()
    assert all(torch.equal(loaded[name].cpu(), backbone[name].cpu()) for name in backbone)
    weights.unlink()
    cfg = recorded_config(own, tmp_path / "maps")
    with pytest.raises(ValueError, match=r"Those were .*weights\.pth \(MODEL\.WEIGHTS\)"):
        load_fitted_scorer(cfg, tmp_path / "maps")
