"""Map folders of several sources that are fitted and calibrated by themselves."""

import json
import logging
import shutil

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from detectron2_agssp.evaluation.judgement import score_labelled
from detectron2_agssp.maps import Calibration, MapStore, fit, generate_anomaly_maps, load_map
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer, recorded_config
from detectron2_agssp.scoring import ANOMALY_SCORER_REGISTRY
from tests.conftest import make_surface
from tests.maps import quick_scorer  # noqa: F401  (registers it)
from tests.scoring.third_party import NormalBrightness

LEVELS = {"dark": 0.4, "light": 1.0, "middle": 0.7}


@ANOMALY_SCORER_REGISTRY.register()
def normal_brightness_per_source(cfg) -> NormalBrightness:
    return NormalBrightness()


@pytest.fixture(autouse=True)
def small_sources(monkeypatch):
    monkeypatch.setattr(fit, "FEWEST_IMAGES", 4)


@pytest.fixture
def images(tmp_path):
    """Four images of each of three sources, which differ in brightness."""
    for source, level in LEVELS.items():
        (tmp_path / "images" / source).mkdir(parents=True)
        for seed in range(4):
            pixels = (level * make_surface(48, 72, seed)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{source}/{seed}.png")
    return tmp_path / "images"


@pytest.fixture
def cfg(tiny_cfg):
    """Of a scorer without a network; chunks of images do not go over a source's end."""
    tiny_cfg.AGSSP.SCORER.NAME = "quick"
    tiny_cfg.AGSSP.SCORER.PER_SOURCE = True
    tiny_cfg.AGSSP.CALIBRATION.PER_SOURCE = True
    return tiny_cfg


@pytest.fixture
def make(cfg, images, tmp_path):
    def run(name="maps", root=images, **how):
        generate_anomaly_maps(cfg, root, tmp_path / name, progress=False, **how)
        return tmp_path / name

    return run


def stored(maps, source=""):
    """Image's name without its source -> its map's bytes."""
    folder = maps / "maps" / source
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.npy"))}


def everything(maps):
    return {p.relative_to(maps): p.read_bytes() for p in maps.rglob("*") if p.is_file()}


def means(maps):
    state = MapStore(maps).read_scorer_state()
    names = bytes(state["sources"].tolist()).decode().split("\0")
    return {name: float(state[f"{n}.mean"]) for n, name in enumerate(names[:-1])}


def brightness(images, *names):
    pixels = [np.asarray(Image.open(images / name).resize((64, 64))) for name in names]
    return pytest.approx(np.mean(pixels), abs=1.5)


@pytest.mark.parametrize("name", ["quick", "mahalanobis"])
def test_as_if_each_source_were_a_folder_of_its_own(cfg, make, images, name):
    cfg.AGSSP.SCORER.NAME, cfg.AGSSP.SCORER.MODEL = name, "resnet10t"
    together = make()
    scores = {entry["image"]: entry["score"] for entry in MapStore(together).entries()}
    cfg.AGSSP.SCORER.PER_SOURCE = cfg.AGSSP.CALIBRATION.PER_SOURCE = False
    for source in LEVELS:
        alone = make(source, images / source)
        assert len(stored(alone)) == 4
        assert stored(together, source) == stored(alone)
        for entry in MapStore(alone).entries():
            assert scores[f"{source}/{entry['image']}"] == entry["score"]
    assert stored(make("one for all"), "dark") != stored(together, "dark")


def test_each_alone_differs(cfg, make):
    """A fit per source with one calibration is another map, and the other way round."""
    found = []
    for own_fit, own_calibration in ((False, False), (True, False), (False, True), (True, True)):
        cfg.AGSSP.SCORER.PER_SOURCE = own_fit
        cfg.AGSSP.CALIBRATION.PER_SOURCE = own_calibration
        found.append(stored(make(f"{own_fit}{own_calibration}"), "dark"))
    assert all(found[a] != found[b] for a in range(4) for b in range(a))


@pytest.mark.parametrize("nested", [True, False])
def test_one_source_is_as_without(cfg, make, images, nested):
    root = images / "dark"
    if nested:
        for source in ("light", "middle"):
            shutil.rmtree(images / source)
        root = images
    own = make("own", root)
    cfg.AGSSP.SCORER.PER_SOURCE = cfg.AGSSP.CALIBRATION.PER_SOURCE = False
    without = make("without", root)
    assert stored(own) == stored(without)
    calibrations = [MapStore(maps).read_scorer()["calibration"] for maps in (own, without)]
    assert calibrations[0] == calibrations[1]
    assert set(calibrations[0]) == {"low", "high", "border"}


def test_a_second_run_changes_nothing(make):
    maps = make()
    before = everything(maps)
    (maps / "maps/light/2.png.npy").unlink()
    make()
    assert everything(maps) == before


def test_a_run_that_was_only_fitted_goes_on(make):
    whole = make("whole")
    make("parts", fit_only=True)
    parts = make("parts")
    for name in ("scorer.json", "scorer.npz", "manifest.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert stored(parts) == stored(whole)


@pytest.mark.parametrize("node", ["SCORER", "CALIBRATION"])
def test_with_the_other_setting_it_is_refused(cfg, make, node):
    make()
    cfg.AGSSP[node].PER_SOURCE = False
    with pytest.raises(ValueError, match=rf"{node}\.PER_SOURCE: True there, False now"):
        make()


def test_a_folder_made_before_the_keys_existed_goes_on(cfg, make):
    cfg.AGSSP.SCORER.PER_SOURCE = cfg.AGSSP.CALIBRATION.PER_SOURCE = False
    maps = make()
    info = json.loads((maps / "scorer.json").read_text())
    del info["SCORER"]["PER_SOURCE"], info["CALIBRATION"]["PER_SOURCE"]
    (maps / "scorer.json").write_text(json.dumps(info))
    before = everything(maps)
    (maps / "maps/light/2.png.npy").unlink()
    make()
    assert everything(maps) == before


def test_a_small_source_gets_what_is_learned_of_all(cfg, make, images, caplog):
    for seed in range(2):
        (images / f"dark/{seed}.png").unlink()
    with caplog.at_level(logging.WARNING):
        own = make("own")
    assert "Of 2 images, too few for a source of its own (4): dark." in caplog.text
    info = MapStore(own).read_scorer()
    assert set(info["calibration"]["sources"]) == {"light", "middle"}
    cfg.AGSSP.SCORER.PER_SOURCE = cfg.AGSSP.CALIBRATION.PER_SOURCE = False
    together = make("together")
    assert stored(own, "dark") == stored(together, "dark")
    assert stored(own, "light") != stored(together, "light")


def test_images_of_another_source_are_scored_by_all(cfg, make, images, tmp_path):
    """Those that are added, and those of another folder."""
    maps = make()
    (tmp_path / "other").mkdir()
    Image.fromarray(make_surface(48, 72, 9)).save(tmp_path / "other/9.png")
    shutil.copytree(tmp_path / "other", images / "new")
    make()
    added = load_map(maps / "maps/new/9.png.npy")
    fitted = make("other maps", tmp_path / "other", fitted_by=maps)
    np.testing.assert_array_equal(load_map(fitted / "maps/9.png.npy"), added)
    cfg.AGSSP.SCORER.PER_SOURCE = cfg.AGSSP.CALIBRATION.PER_SOURCE = False
    shutil.rmtree(images / "new")
    plain = make("plain")
    expected = make("other by plain", tmp_path / "other", fitted_by=plain)
    np.testing.assert_array_equal(load_map(expected / "maps/9.png.npy"), added)


def test_labelled_images_elsewhere_are_calibrated_as_their_source(cfg, make, images, tmp_path):
    maps = make()
    labels = {"images": [{"id": 1, "file_name": "0.png", "height": 48, "width": 72}]}
    labels |= {"annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    found = list(score_labelled(cfg, maps, tmp_path / "labels.json", images))
    assert [info["source"] for info, _ in found] == list(LEVELS)
    for info, anomaly_map in found:
        np.testing.assert_array_equal(anomaly_map, load_map(maps / f"maps/{info['image']}.npy"))


def test_it_comes_back_from_its_folder(make):
    maps = make()
    cfg = recorded_config(get_cfg(), maps)
    scorer, calibration = load_fitted_scorer(cfg, maps)
    assert scorer.sources == list(calibration.sources) == list(LEVELS)
    lows = {source: calibration.of(source).low for source in LEVELS}
    assert calibration.of("new") is calibration
    assert calibration.low not in lows.values()


def test_fit_images_are_of_each_source(cfg, make, images):
    cfg.AGSSP.SCORER.FIT_IMAGES = 1
    for source, mean in means(make()).items():
        assert any(mean == brightness(images, f"{source}/{n}.png") for n in range(4))


def test_a_source_that_is_blank_is_named(cfg, make, images):
    cfg.AGSSP.SCORER.PER_SOURCE = False
    cfg.AGSSP.CALIBRATION.BORDER = False
    for path in (images / "light").iterdir():
        Image.new("RGB", (72, 48), (9, 9, 9)).save(path)
    with pytest.raises(ValueError, match=r"CALIBRATION\.PER_SOURCE: the source 'light': All raw"):
        make()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], r"the sources of its calibration are \[\]"),
        ({"a": {"low": 0}}, r"its calibration of 'a' is \{'low': 0\}"),
        ({"a": {"low": 1, "high": 0}}, "its calibration of 'a' needs low < high"),
        ({"a": {"low": 0, "high": "1"}}, "its calibration of 'a' is .*'1'"),
    ],
)
def test_damaged_calibrations(make, sources, message):
    maps = make()
    info = json.loads((maps / "scorer.json").read_text())
    info["calibration"]["sources"] = sources
    (maps / "scorer.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=message):
        make()


def test_calibrations_as_json():
    own = Calibration(0.25, 0.5, (0.125,))
    calibration = Calibration(0, 1, (), {"a": own})
    content = json.loads(json.dumps(calibration.as_json()))
    assert Calibration.from_json(content) == calibration
    assert Calibration.from_json(content).of("a") == own
    assert "sources" not in own.as_json()


# ---- normal images -------------------------------------------------------------------------------


@pytest.fixture
def normal_cfg(cfg):
    cfg.AGSSP.SCORER.NAME = "normal_brightness_per_source"
    return cfg


def test_normal_images_are_of_their_own_source(normal_cfg, make, images):
    names = ("dark/0.png", "light/*.png", f"{images}/middle/3.png")
    normal_cfg.AGSSP.SCORER.NORMAL_IMAGES = names
    found = means(make())
    assert found["dark"] == brightness(images, "dark/0.png")
    assert found["light"] == brightness(images, *(f"light/{n}.png" for n in range(4)))
    assert found["middle"] == brightness(images, "middle/3.png")


def test_a_sample_is_of_each_source(normal_cfg, make, images):
    normal_cfg.AGSSP.SCORER.NORMAL_SAMPLE = 4
    found = means(make())
    for source in LEVELS:
        assert found[source] == brightness(images, *(f"{source}/{n}.png" for n in range(4)))


def test_sources_without_normal_images_are_named(normal_cfg, make):
    normal_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("light",)
    with pytest.raises(ValueError, match=r"names none of 'dark', 'middle'\. .*CALM_WINDOWS"):
        make()


def test_calm_windows_of_sources_without_normal_images(normal_cfg, make, images):
    scorer = normal_cfg.AGSSP.SCORER
    scorer.NORMAL_IMAGES, scorer.CALM_WINDOWS = ("light/0.png",), 2
    scorer.MODEL, scorer.STRIDES = "resnet10t", (16,)
    maps = make()
    windows = MapStore(maps).read_scorer()["calm_windows"]
    sources = [window["image"].split("/")[0] for window in windows]
    assert sources == ["dark", "dark", "middle", "middle"]
    found = means(maps)
    assert found["light"] == brightness(images, "light/0.png")
    assert found["dark"] < found["middle"] < found["light"]


def test_normal_images_of_no_source(normal_cfg, make, tmp_path):
    Image.fromarray(make_surface(48, 72)).save(tmp_path / "good.png")
    normal_cfg.AGSSP.SCORER.NORMAL_IMAGES = (str(tmp_path / "good.png"),)
    with pytest.raises(ValueError, match=r"good\.png', which is not below .*PER_SOURCE False"):
        make()
