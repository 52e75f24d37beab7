"""Calm windows of a folder's images, and fitting on them."""

import json

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.maps import MapStore, calm, generate_anomaly_maps
from detectron2_agssp.maps.calm import find_calm_windows
from detectron2_agssp.maps.windows import Window
from detectron2_agssp.scoring import (
    ANOMALY_SCORER_REGISTRY,
    AnomalyScores,
    build_anomaly_scorer,
)
from tests.scoring.third_party import Contrast, NormalBrightness, cells_of


class Median(Contrast):
    """Distance to the image's own median, which a defect does not move."""

    def forward(self, images):
        cells = cells_of(images)
        maps = (cells - cells.flatten(1).median(dim=1).values[:, None, None]).abs()
        return AnomalyScores(maps, maps.amax(dim=(1, 2)))


@ANOMALY_SCORER_REGISTRY.register()
def median_for_calm(cfg) -> Median:
    return Median()


@ANOMALY_SCORER_REGISTRY.register()
def normal_brightness_for_calm(cfg) -> NormalBrightness:
    return NormalBrightness()


@pytest.fixture
def calm_cfg(tiny_cfg, monkeypatch):
    """Of scorers without a network: what is tested here is around them."""
    monkeypatch.setattr(calm, "FIRST_SCORER", "median_for_calm")
    tiny_cfg.AGSSP.SCORER.NAME = "normal_brightness_for_calm"
    return tiny_cfg


@pytest.fixture
def find(calm_cfg, tmp_path):
    def run(count, root=tmp_path / "images", **settings):
        for key, value in {"CALM_WINDOWS": count, **settings}.items():
            calm_cfg.AGSSP.SCORER[key] = value
        scorer = build_anomaly_scorer(calm_cfg)
        return find_calm_windows(calm_cfg, scorer, str(root), progress=False)

    return run


def defective(root, name, *, seed, level=100, noise=2, left=False):
    """A grey image of 48 x 96 whose one half is odd."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(level, noise, (48, 96))
    pixels[8:40, slice(0, 40) if left else slice(56, 96)] += 60
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    grey = pixels.clip(0, 255).astype(np.uint8)
    Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).save(root / name)


@pytest.fixture
def defects(tmp_path):
    """Six images in one source, each with a defect on its left or its right."""
    for index in range(6):
        defective(tmp_path / "images", f"{index}.png", seed=index, left=index % 2 == 0)
    return tmp_path / "images"


def test_windows_are_beside_the_defects(find, defects):
    windows = find(3)
    assert len(windows) == len({window.image for window in windows}) == 3
    for window in windows:
        assert window.side == 24
        left = int(window.image[0]) % 2 == 0
        assert window.left >= 40 if left else window.left + window.side <= 56
    assert find(3, CALM_SIDE=0.25)[0].side == 12


def test_the_same_each_time_and_fewer_than_asked_for(find, defects):
    assert find(3, SEED=5) == find(3, SEED=5)
    assert {window.image for window in find(50)} == {f"{index}.png" for index in range(6)}


def test_the_calmest(find, tmp_path):
    """Of many images, none that is far rougher."""
    for index in range(8):
        defective(tmp_path / "images", f"{index}.png", seed=index, noise=2 if index < 4 else 60)
    assert {window.image for window in find(2)} < {f"{index}.png" for index in range(4)}


def test_windows_differ(find, tmp_path):
    """Of copies one, beside what looks otherwise."""
    for index in range(3):
        defective(tmp_path / "images", f"{index}.png", seed=0)
    defective(tmp_path / "images", "other.png", seed=1, level=60, noise=2.5)
    for seed in range(4):
        images = [window.image for window in find(2, SEED=seed)]
        assert len(images) == 2
        assert "other.png" in images


def test_sources_in_turn(find, tmp_path):
    """Also that of which all windows are odder."""
    for index in range(6):
        defective(tmp_path / "images", f"calm/{index}.png", seed=index)
        defective(tmp_path / "images", f"rough/{index}.png", seed=index, level=130, noise=30)
    sources = [window.image.split("/")[0] for window in find(2)]
    assert sorted(sources) == ["calm", "rough"]


def test_an_image_that_cannot_be_read(find, defects):
    (defects / "0.png").write_bytes(b"broken")
    assert {window.image for window in find(6)} == {f"{index}.png" for index in range(1, 6)}


def test_no_image_gives_a_window(find, defects):
    for path in defects.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"CALM_WINDOWS: none of 6 images of .* NORMAL_IMAGES"):
        find(3)


def test_scorers_that_need_none(find, defects, calm_cfg):
    assert find(0) == []
    assert find(3, NAME="median_for_calm") == []


@pytest.mark.parametrize("settings", [(-1, 0.5), (3, 0.0), (3, 1.5), (3, float("nan"))])
def test_bad_settings(find, settings):
    count, side = settings
    with pytest.raises(ValueError, match=rf"CALM_WINDOWS must .* CALM_SIDE .*{count} and {side}"):
        find(count, CALM_SIDE=side)


def test_a_map_folder_of_one_image(tiny_cfg, tmp_path):
    """What the first scorer cannot do is told with the key that asked for it."""
    defective(tmp_path / "images", "a.png", seed=0)
    scorer = tiny_cfg.AGSSP.SCORER
    scorer.NAME, scorer.MODEL, scorer.STRIDES, scorer.CALM_WINDOWS = "memory", "resnet10t", (16,), 2
    with pytest.raises(ValueError, match=r"CALM_WINDOWS takes a first map: .*one image only"):
        generate_anomaly_maps(tiny_cfg, tmp_path / "images", tmp_path / "maps", progress=False)


def test_what_is_fitted_on(calm_cfg, defects, tmp_path):
    """The windows alone, or beside normal images; the folder says which, and goes on with them."""
    scorer = calm_cfg.AGSSP.SCORER
    scorer.CALM_WINDOWS = 3

    def make(name, **how):
        generate_anomaly_maps(calm_cfg, defects, tmp_path / name, progress=False, **how)
        return MapStore(tmp_path / name).read_scorer()

    record = make("maps")
    means = []
    for window in record["calm_windows"]:
        pixels = np.asarray(Image.open(defects / window["image"]).convert("L"), np.float32)
        means.append(Window(**window).cut(pixels).mean())
    assert len(means) == 3
    learned = float(MapStore(tmp_path / "maps").read_scorer_state()["mean"])
    assert learned == pytest.approx(np.mean(means), abs=1)
    before = (tmp_path / "maps/scorer.json").read_bytes()
    assert make("maps") == record
    assert (tmp_path / "maps/scorer.json").read_bytes() == before
    assert "calm_windows" not in make("others", fitted_by=tmp_path / "maps")
    # Each of these has its defect, and the mean is far from the windows'.
    scorer.NORMAL_IMAGES = ("0.png", "1.png", "2.png")
    make("both")
    both = float(MapStore(tmp_path / "both").read_scorer_state()["mean"])
    assert both > learned + 5
    scorer.CALM_WINDOWS = 0
    assert "calm_windows" not in make("images only")


def test_of_other_settings(calm_cfg, defects, tmp_path):
    calm_cfg.AGSSP.SCORER.CALM_WINDOWS = 3
    generate_anomaly_maps(calm_cfg, defects, tmp_path / "maps", progress=False)
    calm_cfg.AGSSP.SCORER.CALM_WINDOWS = 4
    with pytest.raises(ValueError, match=r"other settings:\n.*CALM_WINDOWS: 3 there, 4 now"):
        generate_anomaly_maps(calm_cfg, defects, tmp_path / "maps", progress=False)


def test_memory_by_mutual(tiny_cfg, defects, tmp_path):
    """As they are shipped, but for the network."""
    scorer = tiny_cfg.AGSSP.SCORER
    scorer.NAME, scorer.MODEL, scorer.STRIDES, scorer.CALM_WINDOWS = "memory", "resnet10t", (16,), 4
    for name in ("maps", "again"):
        generate_anomaly_maps(tiny_cfg, defects, tmp_path / name, progress=False)
    assert len(json.loads((tmp_path / "maps/scorer.json").read_text())["calm_windows"]) == 4
    assert len(MapStore(tmp_path / "maps").read_scorer_state()["memory"]) == 4 * 16
    files = [tmp_path / name / "scorer.json" for name in ("maps", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
