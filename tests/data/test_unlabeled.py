"""Map folders as data sets."""

import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp import plugin
from detectron2_agssp.data import register_map_folders, register_unlabeled
from detectron2_agssp.maps import MapStore

pytestmark = pytest.mark.usefixtures("empty_catalogs")


@pytest.fixture
def make_folder(tmp_path, write_maps):
    """Makes $DETECTRON2_DATASETS/agssp/<name> and its images' folder."""

    def make(name, scorer=None):
        images = tmp_path / f"images of {name}"
        images.mkdir()
        folder = write_maps(
            tmp_path / "agssp" / name, {"a.png": np.eye(4), "b/c.png": np.eye(4, 7)}
        )
        scorer = json.dumps({"image_root": str(images)}) if scorer is None else scorer
        (folder / "scorer.json").write_text(scorer)
        return folder

    return make


def test_register_unlabeled(make_folder, tmp_path):
    folder = make_folder("x")
    register_unlabeled("mine", tmp_path / "images of x", folder)
    for name in ("mine", "mine_boxes"):
        first, second = DatasetCatalog.get(name)
        assert first["file_name"] == str(tmp_path / "images of x/a.png")
        assert second == {
            "file_name": str(tmp_path / "images of x/b/c.png"),
            "image_id": "b/c.png",
            "height": 4,
            "width": 7,
            "map_file": str(folder / "maps/b/c.png.npy"),
            "map_root": str(folder),
            "source": "b",
        }
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == ["anomaly"]
        assert metadata.map_root == str(folder)
        assert metadata.image_root == str(tmp_path / "images of x")


def test_paths_as_people_write_them(make_folder, tmp_path, monkeypatch):
    """The metadata's map folder is that of the dicts, by which thresholds are found."""
    make_folder("x")
    monkeypatch.chdir(tmp_path)
    register_unlabeled("mine", "images of x/", "./agssp//x/")
    assert MetadataCatalog.get("mine").map_root == DatasetCatalog.get("mine")[0]["map_root"]


def test_registering_again_replaces(make_folder, tmp_path):
    for name in ("x", "y"):
        folder = make_folder(name)
        register_unlabeled("mine", tmp_path / f"images of {name}", folder)
    for name in ("mine", "mine_boxes"):
        assert DatasetCatalog.get(name)[0]["map_root"] == str(folder)
        assert MetadataCatalog.get(name).map_root == str(folder)


def test_nothing_is_read_before_use(tmp_path):
    register_unlabeled("mine", tmp_path / "no images", tmp_path / "no maps")
    with pytest.raises(FileNotFoundError, match=r"no images' .*does not exist.*register_unlabeled"):
        DatasetCatalog.get("mine")
    (tmp_path / "no images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no maps has no manifest\.jsonl"):
        DatasetCatalog.get("mine")
    MapStore(tmp_path / "no maps").append([])
    with pytest.raises(ValueError, match="is empty: there is nothing to train on"):
        DatasetCatalog.get("mine_boxes")


def test_map_folders_are_found(make_folder, tmp_path, monkeypatch):
    make_folder("x")
    make_folder("y")
    (tmp_path / "agssp/unfinished").mkdir()
    (tmp_path / "agssp/notes.txt").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert register_map_folders() == ["agssp_x", "agssp_y"]
    names = ["agssp_x", "agssp_x_boxes", "agssp_y", "agssp_y_boxes"]
    assert sorted(DatasetCatalog.list()) == names
    assert all(len(DatasetCatalog.get(name)) == 2 for name in names)
    assert register_map_folders() == []
    make_folder("z")
    assert register_map_folders() == ["agssp_z"]


@pytest.mark.parametrize("scorer", ["{", "[]", "null", "{}", '"text"'])
def test_the_import_reads_names_only(make_folder, tmp_path, scorer):
    make_folder("bad", scorer)
    make_folder("good")
    assert register_map_folders(tmp_path) == ["agssp_bad", "agssp_good"]
    with pytest.raises(ValueError, match=r"agssp/bad/scorer\.json"):
        DatasetCatalog.get("agssp_bad_boxes")
    assert len(DatasetCatalog.get("agssp_good")) == 2


@pytest.mark.parametrize("name", ["scorer.json", "manifest.jsonl"])
def test_a_pipe_does_not_hang_the_import(make_folder, tmp_path, name):
    folder = make_folder("x")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert register_map_folders(tmp_path) == []


def test_no_folder(tmp_path, monkeypatch):
    assert register_map_folders(tmp_path / "absent") == []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert register_map_folders() == []


def test_by_default_in_datasets(make_folder, tmp_path, monkeypatch):
    make_folder("x")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "agssp").rename(tmp_path / "datasets/agssp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert register_map_folders() == ["agssp_x"]
    assert MetadataCatalog.get("agssp_x").map_root == "datasets/agssp/x"


@pytest.mark.parametrize("taken", ["agssp_x", "agssp_x_boxes"])
def test_names_of_the_user_are_left_alone(make_folder, tmp_path, taken):
    make_folder("x")
    DatasetCatalog.register(taken, lambda: ["mine"])
    MetadataCatalog.get(taken).set(thing_classes=["mine"])
    assert register_map_folders(tmp_path) == []
    assert DatasetCatalog.list() == [taken]
    assert DatasetCatalog.get(taken) == ["mine"]
    assert MetadataCatalog.get(taken).thing_classes == ["mine"]


def test_installation_registers_them(make_folder, tmp_path, monkeypatch):
    make_folder("x")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for _ in range(2):
        plugin.install()
        assert {"agssp_x", "agssp_x_boxes", "neu_det_train"} <= set(DatasetCatalog.list())


def test_home(monkeypatch, tmp_path, write_maps, empty_catalogs):
    """Also of the thresholds, which are found by the map folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    write_maps(tmp_path / "maps", {"a.png": np.eye(3)})
    register_unlabeled("mine", "~/images", "~/maps")
    (entry,) = DatasetCatalog.get("mine_boxes")
    assert entry["file_name"] == str(tmp_path / "images/a.png")
    assert entry["map_root"] == MetadataCatalog.get("mine_boxes").map_root == str(tmp_path / "maps")
