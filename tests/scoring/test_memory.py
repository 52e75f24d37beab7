"""Distance to the nearest normal patch: against a plain loop, its memory, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2_agssp.maps import MapStore, generate_anomaly_maps
from detectron2_agssp.scoring import MemoryScorer, build_anomaly_scorer
from tests.scoring.tiny_features import CellFeatures, make_images, make_surfaces


def make_scorer(**settings):
    return MemoryScorer(features=CellFeatures(), **settings)


def test_against_a_loop():
    normal, images = make_images(3), make_images(2, seed=1)
    result = make_scorer().fit(normal)(images)
    features = CellFeatures()
    rows = features(normal).permute(0, 2, 3, 1).reshape(-1, 8).double()
    expected = torch.zeros(2, 4, 6)
    for index, cells in enumerate(features(images).double()):
        for y in range(4):
            for x in range(6):
                cell = cells[:, y, x]
                cosines = [float(cell @ row) / float(cell.norm() * row.norm()) for row in rows]
                expected[index, y, x] = 1 - max(cosines)
    assert result.maps.dtype == torch.float32
    torch.testing.assert_close(result.maps, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.scores, result.maps.flatten(1).amax(dim=1))


def test_normal_is_near_and_a_defect_far():
    normal, images = make_surfaces(4), make_surfaces(2, seed=1)
    images[1, :, 8:16, 16:32] = torch.tensor([10.0, 250.0, 10.0]).view(3, 1, 1)
    scorer = make_scorer(size=64).fit(normal)
    result = scorer(images)
    # A fit image has patches outside the coreset too, but each is near one that is in it.
    assert scorer(normal).scores.max() < 0.05
    assert result.scores[0] < 0.1
    assert result.scores[1] > 0.3
    peak = result.maps[1].flatten().argmax().item()
    # At the defect's cells, or beside them, where its colour is mixed with the surface's.
    assert 1 <= peak // 12 < 5
    assert 3 <= peak % 12 < 9


def test_fit_images_score_zero_with_all_their_patches():
    normal = make_images(3)
    assert make_scorer().fit(normal)(normal).maps.max() < 1e-5


def test_memory_is_bounded():
    images = make_images(9)
    scorer = make_scorer(size=10, candidates=40).fit(images.split(2))
    assert scorer.memory.shape == (10, 8)
    cells = CellFeatures()(images).permute(0, 2, 3, 1).reshape(-1, 8)
    cells = torch.nn.functional.normalize(cells, dim=1)
    assert torch.cdist(scorer.memory, cells).amin(dim=1).max() < 1e-3
    assert scorer.memory.unique(dim=0).shape == (10, 8)
    again = make_scorer(size=10, candidates=40).fit(images.split(5))
    torch.testing.assert_close(again.memory, scorer.memory)
    other = make_scorer(size=10, candidates=40, seed=1).fit(images)
    assert not torch.allclose(other.memory, scorer.memory)


def test_batches_change_nothing():
    scorer = make_scorer().fit(make_images(3))
    images = make_images(4, seed=1)
    together = scorer(images)
    for index in range(4):
        alone = scorer(images[index : index + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[index])
    images[2] = torch.nan
    maps = scorer(images).maps
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[[0, 1, 3]], together.maps[[0, 1, 3]])


def test_none_and_other_sizes():
    scorer = make_scorer().fit([make_images(1), make_images(1, 32, 8)])
    assert len(scorer.memory) == 24 + 16
    empty = scorer(make_images(0))
    assert empty.maps.shape == (0, 4, 6)
    assert empty.scores.shape == (0,)
    assert scorer(make_images(1, 8, 32)).maps.shape == (1, 2, 8)


def test_learned_state_and_fitting_again():
    images = make_images(2, seed=1)
    scorer = make_scorer(size=10).fit(make_images(3, seed=2)).fit(make_images(3))
    assert sorted(scorer.learned_state()) == ["memory"]
    other = make_scorer()
    other.load_learned_state(scorer.learned_state())
    torch.testing.assert_close(other(images), scorer(images), rtol=0, atol=0)
    torch.testing.assert_close(scorer(images), make_scorer(size=10).fit(make_images(3))(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (make_images(0), r"no normal images.*SCORER\.NORMAL_IMAGES.*SCORER\.NORMAL_SAMPLE"),
        ([], "no normal images"),
        (make_images(2) * torch.nan, "not finite: check the network's weights.*PRECISION"),
        (make_images(2)[:, :1], r"got shape \(2, 1, 16, 24\)"),
    ],
)
def test_unfit_images(images, message):
    scorer = make_scorer()
    with pytest.raises(ValueError, match=message):
        scorer.fit(images)
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(normal_images\)"):
        scorer(make_images(1))


@pytest.mark.parametrize(
    ("settings", "received"),
    [({"size": 0}, "0 and 100000"), ({"size": 11, "candidates": 10}, "11 and 10")],
)
def test_bad_settings(settings, received):
    with pytest.raises(ValueError, match=f"1 <= SIZE <= CANDIDATES, got {received}"):
        make_scorer(**settings)


@pytest.fixture
def memory_cfg(tiny_cfg):
    scorer = tiny_cfg.AGSSP.SCORER
    scorer.NAME, scorer.MODEL, scorer.STRIDES = "memory", "resnet10t", (8, 16)
    scorer.MEMORY.SIZE = 50
    return tiny_cfg


def test_by_the_registry(memory_cfg):
    memory_cfg.AGSSP.SCORER.MEMORY.CANDIDATES = 60
    memory_cfg.AGSSP.SCORER.SEED = 5
    scorer = build_anomaly_scorer(memory_cfg)
    assert isinstance(scorer, MemoryScorer)
    assert (scorer.size, scorer.candidates, scorer.seed) == (50, 60, 5)
    assert (scorer.image_size, scorer.stride, scorer.size_divisor) == (64, 8, 16)
    assert scorer.fit(make_surfaces(2, 64, 64)).memory.shape == (50, scorer.features.num_channels)


def test_a_folder(memory_cfg, image_folder, tmp_path):
    """Only the normal images are learned from; a second run changes nothing."""
    memory_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("line 1",)
    maps = tmp_path / "maps"
    summary = generate_anomaly_maps(memory_cfg, image_folder, maps, progress=False)
    assert (summary.scored, summary.skipped) == (6, 0)
    assert MapStore(maps).read_scorer_state()["memory"].shape[0] == 50
    entries = {entry["image"]: entry["score"] for entry in MapStore(maps).entries()}
    normal = [score for image, score in entries.items() if image.startswith("line 1/")]
    others = [score for image, score in entries.items() if not image.startswith("line 1/")]
    assert max(normal) < min(others)
    before = {path: path.read_bytes() for path in maps.rglob("*") if path.is_file()}
    assert generate_anomaly_maps(memory_cfg, image_folder, maps, progress=False).kept == 6
    assert {path: path.read_bytes() for path in maps.rglob("*") if path.is_file()} == before


def test_a_folder_without_normal_images(memory_cfg, image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"'memory' needs.*NORMAL_IMAGES.*NORMAL_SAMPLE"):
        generate_anomaly_maps(memory_cfg, image_folder, tmp_path / "maps", progress=False)


def test_normal_images_elsewhere(memory_cfg, image_folder, tmp_path, surface):
    """By an absolute path, outside the image folder."""
    (tmp_path / "good").mkdir()
    Image.fromarray(surface(50, 90, 77)).save(tmp_path / "good/n.png")
    memory_cfg.AGSSP.SCORER.NORMAL_IMAGES = (str(tmp_path / "good"),)
    maps = tmp_path / "maps"
    assert generate_anomaly_maps(memory_cfg, image_folder, maps, progress=False).scored == 6
    assert np.isfinite(MapStore(maps).read_scorer_state()["memory"]).all()


def test_features_are_not_centred(tiny_cfg):
    """Cosines of centred features compare the noise of ordinary cells."""
    tiny_cfg.AGSSP.SCORER.NAME = "memory"
    assert tiny_cfg.AGSSP.SCORER.CENTER
    assert not build_anomaly_scorer(tiny_cfg).features.center
