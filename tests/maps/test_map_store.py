"""Map files, the manifest and its repair."""

import io
import json
import os
import zipfile

import numpy as np
import pytest

from detectron2_agssp.io.files import TEMPORARY_PATTERN, atomic_write
from detectron2_agssp.maps import MapStore, load_map
from detectron2_agssp.maps.manifest import finite_score

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


@pytest.mark.parametrize("value", [0, 1])
def test_map_without_an_anomaly_or_with_nothing_else_is_fine(tmp_path, value):
    np.save(tmp_path / "flat.npy", np.full((3, 4), value, np.float16))
    assert (load_map(tmp_path / "flat.npy") == value).all()


def test_map_that_claims_to_be_huge(tmp_path):
    """400 TB are not asked for."""
    path = tmp_path / "huge.npy"
    np.save(path, np.eye(8, dtype=np.float16))
    path.write_bytes(path.read_bytes().replace(b"(8, 8), }            ", b"(10000000, 10000000)}"))
    with pytest.raises(ValueError, match=r"huge\.npy.*another length than its shape"):
        load_map(path)


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
        (np.array([["a", "b"]]), "<U1, not numbers"),
        (np.array([[{}]]), r"not a readable .npy file \(it holds object"),
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
    with pytest.raises(ValueError, match=r"short\.npy.*Delete it and run agssp maps"):
        load_map(path)


def test_damaged_header(tmp_path):
    """An opened bracket, at which NumPy raises an error of its tokenizer."""
    path = tmp_path / "header.npy"
    np.save(path, np.eye(8, dtype=np.float16))
    path.write_bytes(path.read_bytes().replace(b"8), }", b"8(, }"))
    with pytest.raises(ValueError, match=r"header\.npy.*not a readable"):
        load_map(path)


def test_missing_map(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy.*agssp maps again"):
        load_map(tmp_path / "gone.npy")


# ---- the manifest


def test_entries_in_order(store):
    assert images(store) == NAMES
    assert "划痕" in store.manifest_path.read_text(encoding="utf-8")


def test_name_that_is_not_unicode(store):
    name = os.fsdecode(b"caf\xe9.png")
    store.append([{**next(store.entries()), "image": name}])
    store.merge()
    store.manifest_path.read_bytes().decode("utf-8")
    assert name in images(store)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"manifest\.jsonl:5 is not JSON of an image.*running agssp maps again"),
        ("3", r"manifest\.jsonl:5 is not JSON of an image"),
        ("", r"manifest\.jsonl:5 is not JSON of an image"),
        ('{"image": "a"}', r"manifest\.jsonl: the entry of 'a' lacks \['map', 'height'"),
    ],
)
def test_bad_line_is_named(store, line, message):
    with open(store.manifest_path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        list(store.entries())


def test_no_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a map folder.*agssp maps"):
        next(MapStore(tmp_path).entries())


def test_repair_wherever_it_was_cut(store):
    content = store.manifest_path.read_bytes()
    assert not store.repair()
    for length in {*range(0, len(content), 7), *range(len(content) - 60, len(content))}:
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
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


def test_sorting(store):
    entries = list(store.entries())
    store.manifest_path.write_text(
        "".join(json.dumps(entry) + "\n" for entry in [*entries[::-1], entries[1]])
    )
    store.merge()
    assert images(store) == ["a/a.png", "a.jpg", "a.png", "ü 划痕.png"]
    before = store.manifest_path.stat().st_mtime_ns
    store.merge()
    assert store.manifest_path.stat().st_mtime_ns == before, "a sorted one is left alone"


@pytest.mark.parametrize("merged", [False, True])
def test_the_newest_line_of_an_image_counts(store, merged):
    """As when its map was deleted and made again, of a cropped image."""
    store.append([{**next(store.entries()), "height": 2, "score": 0.25}])
    if merged:
        store.merge()
    (entry,) = (entry for entry in store.entries() if entry["image"] == NAMES[0])
    assert (entry["height"], entry["score"]) == (2, 0.25)
    assert sorted(images(store)) == sorted(NAMES)


def test_a_shards_line_is_newer_than_the_wholes(store):
    part = MapStore(store.root, (0, 2))
    part.append([{**next(store.entries()), "score": 0.25}])
    assert store.recorded()[NAMES[0]]["score"] == 0.25
    store.merge()
    assert not part.manifest_path.exists()
    assert store.recorded()[NAMES[0]]["score"] == 0.25


def test_what_left_the_folder_leaves_the_manifest(store):
    """Deleted images, and those that failed; their maps go, and nothing else."""
    other = store.root / "maps/mine.txt"
    other.write_text("kept")
    assert store.merge(images=NAMES[1:], failed=NAMES[3:]) == 2
    assert sorted(images(store)) == sorted(NAMES[1:3])
    maps = {path.relative_to(store.root / "maps").as_posix() for path in store.root.rglob("*.npy")}
    assert maps == {"a.png.npy", "a/a.png.npy"}
    assert other.read_text() == "kept"


def test_nothing_recorded(tmp_path):
    assert MapStore(tmp_path / "absent").recorded() == {}


# ---- content that can do harm


ENTRY = {"image": "a.png", "map": "maps/a.png.npy", "height": 3, "width": 5, "source": "x"}
ENTRY["score"] = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../a.png"}, "no `image`, a path below"),
        ({"image": "/etc/a.png"}, "no `image`"),
        ({"image": "..\\..\\a.png"}, "no `image`"),
        ({"image": ""}, "no `image`"),
        ({"image": "a\0.png"}, "no `image`"),
        ({"image": ["a.png"]}, "no `image`"),
        ({"map": "../out.npy"}, r"'a\.png' has map '\.\./out\.npy', not below the folder"),
        ({"map": "maps/../../out.npy"}, "not below the folder"),
        ({"map": "/tmp/out.npy"}, "not below the folder"),
        ({"map": None}, "has map None"),
        ({"map": "linked/out.npy"}, "through a link"),
        ({"height": 10_000_000, "width": 10_000_000}, r"\(10000000, 10000000\), no size"),
        ({"height": 0}, "no size of an image"),
        ({"height": "3"}, "no size of an image"),
        ({"width": 2.5}, "no size of an image"),
        ({"width": True}, "no size of an image"),
        ({"source": 3}, "has source 3, no text"),
    ],
)
def test_hostile_entries(tmp_path, change, message):
    """Refused by name, in reading as in going on; a marker outside the folder stays."""
    (tmp_path / "maps").mkdir()
    (tmp_path / "out.npy").write_bytes(b"marker")
    (tmp_path / "maps/linked").symlink_to(tmp_path)
    store = MapStore(tmp_path / "maps")
    store.append([ENTRY | change])
    for read in (lambda: list(store.entries()), store.recorded):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert str(store.manifest_path) in str(caught.value)
    assert (tmp_path / "out.npy").read_bytes() == b"marker"


@pytest.mark.parametrize("score", [None, "1", True, [1], 10**400, float("nan"), float("inf")])
def test_scores_that_are_no_finite_numbers(tmp_path, score):
    with pytest.raises(ValueError, match=r"manifest\.jsonl: image 'a\.png' has score .* finite"):
        finite_score(ENTRY | {"score": score}, tmp_path / "manifest.jsonl")


def test_maps_are_not_written_through_a_link(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/maps").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match="through a link"):
        MapStore(tmp_path / "folder").write_map("a.png", np.eye(3))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_manifest_in_another_encoding(store, encoding):
    store.manifest_path.write_text(store.manifest_path.read_text(), encoding=encoding)
    with pytest.raises(ValueError, match=r"manifest\.jsonl is not in UTF-8 .*Save it as UTF-8"):
        list(store.entries())


def test_manifest_with_a_byte_order_mark(store):
    content = store.manifest_path.read_bytes()
    store.manifest_path.write_bytes(b"\xef\xbb\xbf" + content)
    assert images(store) == NAMES
    store.merge()
    assert sorted(images(store)) == sorted(NAMES)


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000, '{"image": "a.png", "height": 1e999}'])
def test_odd_json(store, line):
    with open(store.manifest_path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"manifest\.jsonl.* Delete|:5 is not JSON"):
        list(store.entries())


def test_no_regular_files(store):
    """A pipe would be waited for."""
    store.manifest_path.unlink()
    os.mkfifo(store.manifest_path)
    os.mkfifo(store.root / "pipe.npy")
    with pytest.raises(ValueError, match=r"manifest\.jsonl is not a file"):
        list(store.entries())
    with pytest.raises(ValueError, match=r"pipe\.npy.*pipe or a device"):
        load_map(store.root / "pipe.npy")


# ---- names


@pytest.mark.parametrize("length", [247, 248, 251, 255])
def test_long_names(tmp_path, length):
    """The map's name is an image's and ".npy"; too long, it ends with a digest."""
    store = MapStore(tmp_path)
    names = [f"deep/{letter * (length - 4)}.{kind}" for letter in "ab" for kind in ("png", "jpg")]
    names.append("ü" * ((length - 4) // 2) + ".png")
    names.append("ü" * ((length - 4) // 2) + ".bmp")
    for number, name in enumerate(names):
        store.write_map(name, np.full((2, 2), number / 10))
    assert len({store.map_name(name) for name in names}) == len(names)
    stored = [np.load(tmp_path / store.map_name(name)).max() for name in names]
    np.testing.assert_allclose(stored, np.arange(len(names)) / 10, atol=1e-3)
    assert (store.map_name(names[0]) == f"maps/{names[0]}.npy") == (length <= 251)


# ---- the scorer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not json"),
        (b"\xff\xfe\x00", "not json"),
        (b"[]", "no JSON object"),
        (b'{"SCORER": 3}', "SCORER is 3"),
        (b'{"FLOAT_MAX": "1"}', "FLOAT_MAX is '1'"),
        (b'{"image_root": null}', "image_root is None"),
        (b'{"calibration": {"low": 0, "high": "1"}}', "calibration is .*'1'"),
    ],
)
def test_damaged_scorer_json(tmp_path, content, message):
    (tmp_path / "scorer.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"scorer\.json.*{message}"):
        MapStore(tmp_path).read_scorer()


def save_scorer(path, kind):
    """Archives that must not be loaded, by what is wrong with them."""
    if kind == "garbage":
        path.write_bytes(b"PK\x03\x04" + bytes(50))
    elif kind == "a bomb":
        np.savez_compressed(path, mean=np.zeros(10_000_000))
    elif kind == "pickled":
        np.savez(path, mean=np.array([{}]))
    elif kind == "a lie":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (10_000_000, 10_000_000)}
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mean.npy", header.getvalue() + bytes(16))
    else:
        np.savez(path, mean=np.eye(40))
        path.write_bytes(path.read_bytes()[:-200] if kind == "cut" else b"")


@pytest.mark.parametrize("kind", ["garbage", "a bomb", "pickled", "a lie", "cut", "empty"])
def test_damaged_scorer_npz(tmp_path, kind):
    save_scorer(tmp_path / "scorer.npz", kind)
    with pytest.raises(ValueError, match=r"scorer\.npz is damaged: .*Delete the folder") as caught:
        MapStore(tmp_path).read_scorer_state()
    assert "allow_pickle" not in str(caught.value)


def test_scorer_round_trip(tmp_path):
    arrays = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "columns": np.asfortranarray(np.eye(3, 4)),
        "none": np.zeros((0, 5), np.float32),
        "scalar": np.array(7),
        "yes": np.array([True]),
    }
    store = MapStore(tmp_path)
    info = {"fingerprint": "f", "calibration": {"low": 0, "high": 1.5}}
    store.write_scorer(info, arrays)
    assert store.read_scorer() == info
    read = store.read_scorer_state()
    assert sorted(read) == sorted(arrays)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)
