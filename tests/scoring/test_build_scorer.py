"""Scorers by their name in a config."""

import pytest
import torch

from detectron2_agssp.scoring import ANOMALY_SCORER_REGISTRY, build_anomaly_scorer
from detectron2_agssp.scoring.base import resolve_device


def test_built_from_the_config(tiny_cfg):
    settings = ["AGSSP.SCORER.STRIDES", (16,), "AGSSP.SCORER.POOL_SIZE", 5]
    tiny_cfg.merge_from_list([*settings, "AGSSP.SCORER.MAHALANOBIS.SHRINKAGE", 0.7])
    scorer = build_anomaly_scorer(tiny_cfg)
    assert (scorer.image_size, scorer.shrinkage, scorer.features.pool_size) == (64, 0.7, 5)
    assert not scorer.training
    assert scorer.device.type == "cpu"
    maps = scorer.fit(255 * torch.rand(2, 3, 64, 64))(255 * torch.rand(1, 3, 64, 64)).maps
    assert maps.shape == (1, 4, 4)


def test_random_weights_are_the_seeds(tiny_cfg):
    """A run with random weights could not be resumed otherwise; and the user's random numbers
    stay as they are."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    scorers = [build_anomaly_scorer(tiny_cfg) for _ in range(2)]
    torch.testing.assert_close(torch.rand(3), expected)
    tiny_cfg.AGSSP.SCORER.SEED = 1
    scorers.append(build_anomaly_scorer(tiny_cfg))
    first, again, other = (next(scorer.features.parameters()) for scorer in scorers)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_unknown_name_lists_the_choices(tiny_cfg):
    tiny_cfg.AGSSP.SCORER.NAME = "mahalonobis"
    with pytest.raises(ValueError, match=r"SCORER\.NAME is 'mahalonobis'.*'mahalanobis'"):
        build_anomaly_scorer(tiny_cfg)
    assert "mahalanobis" in ANOMALY_SCORER_REGISTRY


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"'cuda:1'.*no CUDA device; set it to '' \(automatic\)"):
        resolve_device("cuda:1")
    with pytest.raises(ValueError, match="'gpu' is not a torch device"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
