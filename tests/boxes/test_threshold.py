"""The box threshold of a map folder, against direct computations, and its cache."""

import json

import numpy as np
import pytest

from detectron2_agssp.boxes import threshold
from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.boxes.threshold import box_threshold, map_statistics, source_statistics
from detectron2_agssp.maps.store import MapStore


@pytest.fixture
def maps():
    """Of different sizes, one without an anomaly."""
    rng = np.random.default_rng(0)
    made = {f"{n}.png": rng.random((4 + n, 9)).astype(np.float16) * (n / 5) for n in range(1, 5)}
    return {**made, "none.png": np.zeros((3, 3), np.float16)}


@pytest.fixture
def folder(maps, write_maps, tmp_path):
    return write_maps(tmp_path / "maps", maps)


def test_mean_of_the_maxima(folder, maps):
    mean = np.mean([anomaly_map.max().astype(float) for anomaly_map in maps.values()])
    assert map_statistics(folder).num_maps == 5
    assert box_threshold(folder) == pytest.approx(mean - 0.1, abs=1e-9)
    assert box_threshold(folder, "mean_max", margin=0.25) == pytest.approx(mean - 0.25, abs=1e-9)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9, 0.99, 1])
def test_quantile_of_all_cells(folder, maps, quantile):
    cells = np.concatenate([anomaly_map.ravel() for anomaly_map in maps.values()])
    expected = np.quantile(cells.astype(float), quantile, method="inverted_cdf")
    assert box_threshold(folder, "quantile", quantile=quantile) == expected


def test_fixed_reads_nothing(tmp_path):
    assert box_threshold(tmp_path / "absent", "fixed", threshold=0.25) == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "otsu"}, "'otsu'.*mean_max, quantile, fixed"),
        ({"mode": "fixed", "threshold": 1.0}, r"1\.0000, outside \[0, 1\).*THRESHOLD"),
        ({"mode": "fixed", "threshold": -0.1}, r"-0\.1000, outside"),
        ({"mode": "mean_max", "margin": 0.9}, r"outside \[0, 1\).*AGSSP.BOXES.MARGIN"),
        ({"mode": "quantile", "quantile": -1}, "QUANTILE must be in .0, 1., got -1"),
        ({"mode": "quantile", "quantile": 1.5}, "got 1.5"),
    ],
)
def test_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        box_threshold(folder, **settings)


def test_cache_follows_the_manifest(folder, maps, write_maps):
    before = map_statistics(folder)
    assert map_statistics(folder) == before
    cache = folder / "statistics.json"
    content = json.loads(cache.read_text())
    cache.write_text(json.dumps({**content, "mean_max": 0.77}))
    assert map_statistics(folder).mean_max == 0.77, "the cache is read"
    write_maps(folder, {"new.png": np.eye(4)})
    after = map_statistics(folder)
    assert after.num_maps == before.num_maps + 1
    assert after.mean_max == pytest.approx((before.mean_max * 5 + 1) / 6)


@pytest.mark.parametrize(
    "change",
    [
        "",
        "[]",
        "{}",
        {"mean_max": None},
        {"mean_max": 1e300},
        {"num_maps": []},
        {"histogram": [[1, 2], [3]]},
        {"histogram": [10**30] * 15361},
        {"histogram": [1]},
    ],
)
def test_cache_that_is_damaged_is_made_anew(folder, change):
    expected, cache = map_statistics(folder), folder / "statistics.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(cache.read_text()) | change)
    cache.write_text(change)
    assert map_statistics(folder) == expected
    assert json.loads(cache.read_text())["num_maps"] == 5


def test_folder_that_cannot_be_written(folder, monkeypatch):
    """Refused by the writer, since the user who runs the tests may be allowed everything."""

    def refuse(path, content):
        raise PermissionError(path)

    monkeypatch.setattr("detectron2_agssp.boxes.threshold.write_json", refuse)
    assert map_statistics(folder).num_maps == 5
    assert not (folder / "statistics.json").exists()


def test_no_maps(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest.jsonl.*agssp maps"):
        map_statistics(tmp_path)
    MapStore(tmp_path).append([])
    with pytest.raises(ValueError, match=r"manifest of .* is empty"):
        map_statistics(tmp_path)


def test_bad_map_is_named(folder):
    np.save(folder / "maps/2.png.npy", np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match=r"2\.png\.npy"):
        box_threshold(folder)


@pytest.mark.parametrize("delay", [0, 60])
def test_only_a_long_pass_shows_its_progress(delay, folder, monkeypatch, capfd):
    monkeypatch.setattr(threshold, "PROGRESS_DELAY", delay)
    map_statistics(folder)
    assert ("map statistics" in capfd.readouterr().err) == (delay == 0)


@pytest.fixture
def two_sources(write_maps, tmp_path):
    """One with maps of twice the height, and more of them."""
    rng = np.random.default_rng(1)
    made = {f"a/{n}.png": rng.random((5, 9)).astype(np.float16) for n in range(3)}
    made |= {f"b/{n}.png": (rng.random((7, 4)) / 2).astype(np.float16) for n in range(2)}
    return write_maps(tmp_path / "two", made), made


def of_source(made, name):
    return [values.astype(float) for image, values in made.items() if image.startswith(name)]


def test_thresholds_of_each_source(two_sources):
    folder, made = two_sources
    found = box_threshold(folder, margin=0.2, per_source=True)
    for name in ("a", "b"):
        own = of_source(made, name)
        maxima = [values.max() for values in own]
        assert found[name] == pytest.approx(np.mean(maxima) - 0.2, abs=1e-9)
        cells = np.concatenate([values.ravel() for values in own])
        quantile = box_threshold(folder, "quantile", quantile=0.9, per_source=True)[name]
        assert quantile == np.quantile(cells, 0.9, method="inverted_cdf")
    assert found.keys() == {"a", "b"}
    assert box_threshold(folder, "fixed", threshold=0.25, per_source=True) == 0.25
    with pytest.raises(ValueError, match=r"of the source 'b' of .* is -0\.\d+, outside \[0, 1\)"):
        box_threshold(folder, margin=0.7, per_source=True)


def test_the_rule_of_a_config_cuts_each_source_at_its_own(two_sources, tiny_cfg):
    folder, made = two_sources
    tiny_cfg.AGSSP.BOXES.PER_SOURCE = True
    rule = BoxRule.from_config(tiny_cfg, folder)
    assert rule.threshold_of("a") > rule.threshold_of("b") + 0.3
    image = made["b/0.png"]
    assert len(rule(image, 70, 40, "b")[0]) > 0
    assert len(rule(image, 70, 40, "a")[0]) == 0
    with pytest.raises(ValueError, match=r"no box threshold for the source 'c'.*PER_SOURCE False"):
        rule(image, 70, 40, "c")


def test_statistics_by_source_are_cached_until_the_manifest_changes(two_sources, write_maps):
    folder, _ = two_sources
    expected, cache = source_statistics(folder), folder / "statistics_by_source.json"
    assert expected["a"].num_maps == 3
    content = json.loads(cache.read_text())
    content["sources"]["a"]["num_maps"] = 30
    cache.write_text(json.dumps(content))
    assert source_statistics(folder)["a"].num_maps == 30
    content["sources"]["a"]["histogram"] = [1]
    cache.write_text(json.dumps(content))
    assert source_statistics(folder) == expected
    write_maps(folder, {"c/0.png": np.eye(3, dtype=np.float16)})
    assert source_statistics(folder).keys() == {"a", "b", "c"}
