"""A run that is killed, or meets a folder that changed, ends where an undisturbed one does."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps import MapStore, generate_anomaly_maps
from tests.child_process import run_and_kill, run_in_child
from tests.maps import quick_scorer  # noqa: F401  (registers it)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def images(image_folder, tmp_path):
    """A copy, with one image that cannot be read, so that one chunk is scored again each time."""
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images/line 1/broken.png").write_bytes(b"broken")
    return tmp_path / "images"


@pytest.fixture
def quick_cfg(tiny_cfg):
    """Of a scorer without a network: what is tested here is around it."""
    tiny_cfg.AGSSP.SCORER.NAME = "quick"
    return tiny_cfg


@pytest.fixture
def generate(quick_cfg, images):
    def run(maps, cfg=quick_cfg):
        return generate_anomaly_maps(cfg, images, maps, progress=False)

    return run


@pytest.fixture
def undisturbed(generate, tmp_path):
    generate(tmp_path / "undisturbed")
    return files(tmp_path / "undisturbed")


def generate_and_die(cfg, images, maps, event: str, count: int) -> None:
    """Kills its own process at the ``count``-th of the ``event``."""
    remaining = count

    def die_at_last():
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    replace, append = os.replace, MapStore.append

    def dying_replace(*paths):
        if event == "before a rename":
            die_at_last()
        replace(*paths)
        if event == "after a rename":
            die_at_last()

    def dying_append(store, entries):
        if entries and event == "amid a line":
            append(store, entries)
            os.truncate(store.manifest_path, store.manifest_path.stat().st_size - 7)
            die_at_last()
        append(store, entries)

    os.replace, MapStore.append = dying_replace, dying_append
    generate_anomaly_maps(cfg, images, maps, progress=False)


@pytest.mark.parametrize(
    ("event", "counts"),
    [
        # 1: scorer.npz, 2: scorer.json, 3 to 8: maps, 9: skipped.jsonl
        ("before a rename", [1, 2, 5, 9]),
        ("after a rename", [1, 4, 9]),
        ("amid a line", [1]),
    ],
)
def test_killed_anywhere(quick_cfg, images, generate, undisturbed, tmp_path, event, counts):
    for count in counts:
        maps = tmp_path / f"killed {count}"
        code = run_in_child(generate_and_die, quick_cfg, images, maps, event, count)
        assert code == -signal.SIGKILL, f"{event} {count} did not happen"
        generate(maps)
        assert files(maps) == undisturbed, f"killed {event} {count}"


def test_killed_again_and_again(quick_cfg, images, generate, undisturbed, tmp_path):
    for _ in range(3):
        run_in_child(generate_and_die, quick_cfg, images, tmp_path / "maps", "before a rename", 4)
    generate(tmp_path / "maps")
    assert files(tmp_path / "maps") == undisturbed


def test_killed_at_random_moments(quick_cfg, images, undisturbed, tmp_path):
    """SIGKILL, 20 times, wherever the run is by then; a folder that got finished is begun anew."""
    maps = tmp_path / "maps"
    rng = random.Random(0)
    start = time.perf_counter()
    run_in_child(generate_quietly, quick_cfg, images, tmp_path / "timed")
    duration = time.perf_counter() - start
    killed = finished = 0
    while killed < 20:
        assert finished < 100, f"killed only {killed} of 120 runs of {duration:.2f} s"
        if run_and_kill(generate_quietly, quick_cfg, images, maps, after=rng.uniform(0, duration)):
            killed += 1
        else:
            finished += 1
            assert files(maps) == undisturbed, f"after {killed} kills"
            shutil.rmtree(maps)
    generate_quietly(quick_cfg, images, maps)
    assert files(maps) == undisturbed


def generate_quietly(cfg, images, maps) -> None:
    generate_anomaly_maps(cfg, images, maps, progress=False)


def test_second_run_changes_nothing(generate, undisturbed, tmp_path):
    summary = generate(tmp_path / "undisturbed")
    assert (summary.scored, summary.kept, summary.skipped) == (0, 6, 1)
    assert files(tmp_path / "undisturbed") == undisturbed


def test_manifest_cut_in_mid_line(generate, undisturbed, tmp_path):
    manifest = tmp_path / "undisturbed/manifest.jsonl"
    os.truncate(manifest, manifest.stat().st_size // 2)
    summary = generate(tmp_path / "undisturbed")
    assert summary.scored + summary.kept == 6
    assert files(tmp_path / "undisturbed") == undisturbed


def test_deleted_map_is_made_again(generate, undisturbed, tmp_path):
    (tmp_path / "undisturbed/maps/z/b.tif.npy").unlink()
    assert generate(tmp_path / "undisturbed").scored == 1
    assert files(tmp_path / "undisturbed") == undisturbed


# ---- images that changed since


def entry_of(maps, name):
    return {entry["image"]: entry for entry in MapStore(maps).entries()}.get(name)


@pytest.mark.parametrize("name", ["a.bmp", "z/c.JPG"])
@pytest.mark.parametrize("newer", [True, False])
def test_overwritten_image(generate, undisturbed, images, tmp_path, name, newer, surface):
    """Also by an older file, and by one of the same length."""
    maps, path = tmp_path / "undisturbed", images / name
    before, status = entry_of(maps, name), path.stat()
    with Image.open(path) as image:
        Image.fromarray(surface(image.height, image.width, 99)).save(path)
    if not newer:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**10))
    summary = generate(maps)
    assert (summary.scored, summary.kept) == (1, 5)
    after = files(maps)
    assert after[f"maps/{name}.npy"] != undisturbed[f"maps/{name}.npy"]
    assert entry_of(maps, name)["score"] != before["score"]
    changed = {key for key, content in undisturbed.items() if after[key] != content}
    assert changed == {"manifest.jsonl", f"maps/{name}.npy"}
    assert generate(maps).scored == 0


def test_copied_image_is_the_same(generate, undisturbed, images, tmp_path):
    """A copy has another time, but the same digest."""
    for name in ("a.png", "z/b.tif"):
        os.utime(images / name)
    summary = generate(tmp_path / "undisturbed")
    assert (summary.scored, summary.kept) == (0, 6)
    assert files(tmp_path / "undisturbed") == undisturbed


@pytest.mark.parametrize("delete_map", [True, False])
def test_cropped_image(generate, undisturbed, images, tmp_path, delete_map):
    """The manifest has its new size, also where its map was deleted by hand."""
    maps = tmp_path / "undisturbed"
    with Image.open(images / "a.png") as image:
        image.crop((0, 0, 30, 20)).save(images / "a.png")
    if delete_map:
        (maps / "maps/a.png.npy").unlink()
    assert generate(maps).scored == 1
    entry = entry_of(maps, "a.png")
    assert (entry["height"], entry["width"]) == (20, 30)
    assert len(list(MapStore(maps).entries())) == 6


@pytest.mark.parametrize("how", ["deleted", "broken"])
def test_image_that_is_gone(generate, undisturbed, images, tmp_path, how, caplog):
    """It leaves the manifest, and its map the folder."""
    maps, path = tmp_path / "undisturbed", images / "line 1/a.png"
    path.unlink() if how == "deleted" else path.write_bytes(b"broken too")
    summary = generate(maps)
    assert (summary.scored, summary.kept) == (0, 5)
    assert entry_of(maps, "line 1/a.png") is None
    assert not (maps / "maps/line 1/a.png.npy").exists()
    assert "1 images were deleted" in caplog.text
    assert len((maps / "skipped.jsonl").read_text().splitlines()) == 1 + (how == "broken")
    # And comes back.
    shutil.copy(images / "a.png", path)
    assert generate(maps).scored == 1
    assert entry_of(maps, "line 1/a.png")


def test_changed_images_of_a_divided_run(quick_cfg, generate, undisturbed, images, tmp_path):
    maps = tmp_path / "undisturbed"
    shutil.copy(images / "a.png", images / "a.bmp")
    (images / "z/b.tif").unlink()
    for index in range(2):
        generate_anomaly_maps(quick_cfg, images, maps, shard=(index, 2), progress=False)
    assert (generate(maps).scored, generate(maps).kept) == (0, 5)
    assert entry_of(maps, "z/b.tif") is None
    assert entry_of(maps, "a.bmp")["score"] == entry_of(maps, "a.png")["score"]


def test_added_images(generate, undisturbed, images, tmp_path):
    """They get maps by the same scorer; the maps that were there stay; the manifest is sorted."""
    maps = tmp_path / "undisturbed"
    (images / "line 0").mkdir()
    for name in ("0.png", "line 0/x.png", "zz.png"):
        shutil.copy(images / "a.png", images / name)
    summary = generate(maps)
    assert (summary.scored, summary.kept) == (3, 6)
    listed = [entry["image"] for entry in MapStore(maps).entries()]
    assert listed == [name for name in list_images(images) if "broken" not in name]
    after = files(maps)
    changed = {name for name, content in undisturbed.items() if after[name] != content}
    assert changed == {"manifest.jsonl"}
    same = [np.load(maps / f"maps/{name}.npy") for name in ("a.png", "0.png")]
    np.testing.assert_allclose(*same, atol=2e-3)


def test_repaired_image_gets_its_map(generate, undisturbed, images, tmp_path):
    shutil.copy(images / "a.png", images / "line 1/broken.png")
    assert generate(tmp_path / "undisturbed").scored == 1
    assert (tmp_path / "undisturbed/skipped.jsonl").read_text() == ""


def test_keys_that_are_newer_than_the_folder(generate, undisturbed, quick_cfg, tmp_path):
    """They count as their defaults: a new version goes on with an old folder."""
    path = tmp_path / "undisturbed/scorer.json"
    info = json.loads(path.read_text())
    del info["SCORER"]["TILE_SCALE"]
    path.write_text(json.dumps(info))
    assert generate(tmp_path / "undisturbed").kept == 6
    quick_cfg.AGSSP.SCORER.TILE_SCALE = 2.0
    with pytest.raises(ValueError, match=r"SCORER\.TILE_SCALE: 1\.0 there, 2\.0 now"):
        generate(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("AGSSP.SCORER.IMAGE_SIZE", 32, r"SCORER\.IMAGE_SIZE: 64 there, 32 now"),
        ("AGSSP.SCORER.STRIDES", (8,), r"SCORER\.STRIDES: \[8, 16\] there, \[8\] now"),
        ("AGSSP.CALIBRATION.LOW_QUANTILE", 0.1, r"CALIBRATION\.LOW_QUANTILE: 0\.5 there"),
        ("AGSSP.INPUT.BIT_DEPTH", 12, "BIT_DEPTH: 0 there, 12 now"),
    ],
)
def test_other_settings_are_refused(
    quick_cfg, generate, undisturbed, tmp_path, key, value, message
):
    quick_cfg.merge_from_list([key, value])
    with pytest.raises(
        ValueError, match=rf"(?s)made with other settings.*{message}.*Choose another"
    ):
        generate(tmp_path / "undisturbed", quick_cfg)
    assert files(tmp_path / "undisturbed") == undisturbed


def test_other_images_are_refused(quick_cfg, undisturbed, image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"image_root: .*images' there, .* now"):
        generate_anomaly_maps(quick_cfg, image_folder, tmp_path / "undisturbed", progress=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("calibration", {"low": 1, "high": 1}),
        ("calibration", {"low": float("nan"), "high": 1}),
        ("calibration", {"low": "0", "high": 1}),
        ("calibration", {"low": 0, "high": 10**400}),
        ("calibration", {"low": 0, "high": 1, "border": ["3"]}),
        ("calibration", {"low": 0, "high": 1, "border": 3}),
        ("calibration", [0, 1]),
        ("calibration", None),
        ("fingerprint", 3),
    ],
)
def test_damaged_scorer(generate, undisturbed, tmp_path, key, value):
    path = tmp_path / "undisturbed/scorer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=rf"scorer\.json is damaged: .*{key}.*\. Delete"):
        generate(tmp_path / "undisturbed")


# ---- the network


def test_its_settings_are_the_scorers(tiny_cfg, images, tmp_path):
    """Of a scorer's own node, and from a folder of an older version, that lacked a key."""
    generate_quietly(tiny_cfg, images, tmp_path / "maps")
    path = tmp_path / "maps/scorer.json"
    info = json.loads(path.read_text())
    del info["SCORER"]["MAHALANOBIS"]["SHRINKAGE"]
    path.write_text(json.dumps(info))
    generate_quietly(tiny_cfg, images, tmp_path / "maps")
    tiny_cfg.AGSSP.SCORER.MAHALANOBIS.SHRINKAGE = 0.1
    with pytest.raises(ValueError, match=r"MAHALANOBIS\.SHRINKAGE: 0\.3 there, 0\.1 now"):
        generate_quietly(tiny_cfg, images, tmp_path / "maps")


def test_other_weights_are_refused(tiny_cfg, images, tmp_path, monkeypatch):
    """The settings are the same, but a weight file's content is not."""
    generate_quietly(tiny_cfg, images, tmp_path / "maps")
    monkeypatch.setattr("torch.manual_seed", lambda seed: None)
    with pytest.raises(ValueError, match=r"weights are not those.*fingerprint.*another folder"):
        generate_quietly(tiny_cfg, images, tmp_path / "maps")


def test_runtime_settings_may_change(tiny_cfg, images, tmp_path):
    maps = tmp_path / "maps"
    generate_quietly(tiny_cfg, images, maps)
    before = sorted(files(maps))
    (maps / "maps/a.png.npy").unlink()
    tiny_cfg.AGSSP.SCORER.BATCH_SIZE = 4
    tiny_cfg.AGSSP.SCORER.NUM_WORKERS = 1
    tiny_cfg.AGSSP.SCORER.DEVICE = ""
    assert generate_anomaly_maps(tiny_cfg, images, maps, progress=False).scored == 1
    assert sorted(files(maps)) == before
