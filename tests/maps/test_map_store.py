"""Map files, the manifest and its repair."""

import json
import os

import numpy as np
import pytest

from detectron2_agssp.io.files import TEMPORARY_PATTERN, atomic_write
from detectron2_agssp.maps import MapStore, load_map
from detectron2_agssp.maps.manifest import PathSet

NAMES = ["a.jpg", "a.png", "a/a.png", "ü 划痕.png"]


@pytest.fixture
def store(write_maps, tmp_path):
    return MapStore(write_maps(tmp_path / "maps", dict.fromkeys(NAMES, np.eye(3, 5))))


def images(store):
    return [entry["image"] for entry in store.entries()]


# ---- maps


def test_map_round_trip(store):
    anomaly_map = np.random.default_rng(0).random((4, 7)).astype(np.float32)
    store.write_map("x y/ü.png", anomaly_map)
    path = store.root / "maps/x y/ü.png.npy"
    assert np.load(path).dtype == np.float16
    loaded = load_map(path)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, anomaly_map.astype(np.float16))


def test_map_without_an_anomaly_is_fine(tmp_path):
    np.save(tmp_path / "zeros.npy", np.zeros((3, 4), np.float16))
    assert not load_map(tmp_path / "zeros.npy").any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((3, 4), np.nan), "values from nan to nan"),
        (np.array([[0, np.inf]]), "to inf"),
        (np.array([[0, 1.25]]), r"to 1\.25; expected numbers in \[0, 1\]"),
        (np.array([[-0.5, 1]]), r"from -0\.5"),
        (np.full((3, 4), 0.5), r"constant \(0\.5\)"),
        (np.eye(3)[None], r"shape \(1, 3, 3\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.array([[{}]]), "not a readable .npy file"),
    ],
)
def test_bad_map(tmp_path, content, message):
    path = tmp_path / "bad map.npy"
    np.save(path, content)
    with pytest.raises(ValueError, match=rf"bad map\.npy.*{message}"):
        load_map(path)


@pytest.mark.parametrize("length", [0, 5, 20, 100, 150])
def test_truncated_map(tmp_path, length):
    path = tmp_path / "short.npy"
    np.save(path, np.eye(8, dtype=np.float16))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"short\.npy.*Delete it and run .*generate_anomaly_maps"):
        load_map(path)


def test_damaged_header(tmp_path):
    """An opened bracket, at which NumPy raises an error of its tokenizer."""
    path = tmp_path / "header.npy"
    np.save(path, np.eye(8, dtype=np.float16))
    path.write_bytes(path.read_bytes().replace(b"8), }", b"8(, }"))
    with pytest.raises(ValueError, match=r"header\.npy.*not a readable"):
        load_map(path)


def test_missing_map(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy.*generate_anomaly_maps\.py again"):
        load_map(tmp_path / "gone.npy")


# ---- the manifest


def test_entries_in_order(store):
    assert images(store) == NAMES
    assert "划痕" in store.manifest_path.read_text(encoding="utf-8")


def test_name_that_is_not_unicode(store):
    name = os.fsdecode(b"caf\xe9.png")
    store.append([{**next(store.entries()), "image": name}])
    store.sort_manifest()
    store.manifest_path.read_bytes().decode("utf-8")
    assert name in images(store)
    assert name in PathSet([name])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"manifest\.jsonl:5 is not JSON.*Run the map tool again"),
        ("3", r"manifest\.jsonl:5 is not JSON"),
        ('{"image": "a"}', r"manifest\.jsonl:5 lacks \['map', 'height'"),
    ],
)
def test_bad_line_is_named(store, line, message):
    with open(store.manifest_path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        list(store.entries())


def test_no_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a map folder.*generate_anomaly_maps\.py"):
        next(MapStore(tmp_path).entries())


def test_repair_at_every_byte(store):
    content = store.manifest_path.read_bytes()
    assert not store.repair()
    for length in range(len(content)):
        store.manifest_path.write_bytes(content[:length])
        whole = content[:length].rpartition(b"\n")
        assert store.repair() is bool(whole[2])
        assert store.manifest_path.read_bytes() == whole[0] + whole[1]


def test_repair_of_a_line_longer_than_a_block(store):
    content = store.manifest_path.read_bytes()
    store.manifest_path.write_bytes(content + b"x" * 200_000)
    assert store.repair()
    assert store.manifest_path.read_bytes() == content


def test_repair_removes_temporary_files(store):
    """What atomic_write leaves when it is killed before renaming: in the root, also of a map."""
    with atomic_write(store.root / "maps/a/b.npy", temporary_root=store.root) as file:
        left = {path: path.read_bytes() for path in store.root.rglob(TEMPORARY_PATTERN)}
        assert [str(path) for path in left] == [file.name]
    for path, content in left.items():
        path.write_bytes(content)
    store.repair()
    assert not list(store.root.rglob(TEMPORARY_PATTERN))
    assert (store.root / "maps/a/b.npy").exists()


def test_atomic_write_keeps_the_old_file_on_an_error(tmp_path):
    path = tmp_path / f"{'x' * 250}.txt"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines(["new", None])
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_sorting(store):
    entries = list(store.entries())
    store.manifest_path.write_text(
        "".join(json.dumps(entry) + "\n" for entry in [*entries[::-1], entries[1]])
    )
    store.sort_manifest()
    assert images(store) == ["a/a.png", "a.jpg", "a.png", "ü 划痕.png"]
    before = store.manifest_path.stat().st_mtime_ns
    store.sort_manifest()
    assert store.manifest_path.stat().st_mtime_ns == before, "a sorted one is left alone"


def test_last_image_twice(store):
    """As when its map was deleted and made again."""
    store.sort_manifest()
    *_, last = store.entries()
    store.append([last])
    store.sort_manifest()
    assert sorted(images(store)) == sorted(NAMES)


def test_finished_means_line_and_map(store):
    (store.root / "maps/a.png.npy").unlink()
    done = store.finished()
    assert [name in done for name in NAMES] == [True, False, True, True]
    assert len(done) == 3
    assert len(MapStore(store.root / "absent").finished()) == 0
