"""Registration of NEU-DET and Magnetic-Tile, prepared or not."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.data.builtin import register_builtin_datasets

FIXED = ["magnetic_tile_test", "magnetic_tile_train", "neu_det_test", "neu_det_train"]
NEU_DET = ["crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"]


@pytest.fixture(autouse=True)
def empty_catalogs(monkeypatch):
    """Importing the package registered the names already."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def write_coco(root, split, classes=NEU_DET):
    """A prepared NEU-DET of one image with one box of the last class."""
    folder = root / "neu_det" / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    content = {
        "images": [{"id": 1, "file_name": "train/a.jpg", "width": 20, "height": 16}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": len(classes),
                "bbox": [0, 0, 9, 8],
                "area": 72,
                "iscrowd": 0,
            }
        ],
        "categories": categories[::-1],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))


def test_absent_data_sets_are_registered_and_say_how_to_make_them(tmp_path):
    assert sorted(register_builtin_datasets(tmp_path)) == FIXED
    assert MetadataCatalog.get("neu_det_train").thing_classes == NEU_DET
    assert MetadataCatalog.get("magnetic_tile_test").thing_classes[0] == "Blowhole"
    for name, script in (
        ("neu_det_test", "prepare_neu_det.py"),
        ("magnetic_tile_train", "prepare_magnetic_tile.py"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{name}.*datasets/{script}"):
            DatasetCatalog.get(name)


def test_every_annotation_file_is_registered_and_loads(tmp_path):
    for split in ("train", "test", "train_5pct_draw0"):
        write_coco(tmp_path, split)
    names = register_builtin_datasets(tmp_path)
    assert sorted(names) == sorted([*FIXED, "neu_det_train_5pct_draw0"])
    (entry,) = DatasetCatalog.get("neu_det_train_5pct_draw0")
    assert entry["file_name"] == str(tmp_path / "neu_det/images/train/a.jpg")
    assert entry["annotations"][0]["category_id"] == 5
    metadata = MetadataCatalog.get("neu_det_train_5pct_draw0")
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file == str(tmp_path / "neu_det/annotations/train_5pct_draw0.json")
    assert metadata.image_root == str(tmp_path / "neu_det/images")
    assert metadata.thing_classes == NEU_DET


def test_classes_are_those_of_the_file(tmp_path):
    write_coco(tmp_path, "mine", classes=["spot", "dent"])
    register_builtin_datasets(tmp_path)
    assert MetadataCatalog.get("neu_det_mine").thing_classes == ["spot", "dent"]
    assert len(DatasetCatalog.get("neu_det_mine")) == 1


def test_prepared_after_the_import(tmp_path):
    register_builtin_datasets(tmp_path)
    write_coco(tmp_path, "train")
    write_coco(tmp_path, "train_1pct_draw0")
    assert len(DatasetCatalog.get("neu_det_train")) == 1
    assert register_builtin_datasets(tmp_path) == ["neu_det_train_1pct_draw0"]
    assert register_builtin_datasets(tmp_path) == []


def test_a_name_of_the_user_is_left_alone(tmp_path):
    write_coco(tmp_path, "train")
    DatasetCatalog.register("neu_det_train", lambda: ["mine"])
    assert "neu_det_train" not in register_builtin_datasets(tmp_path)
    assert DatasetCatalog.get("neu_det_train") == ["mine"]


def test_root_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "here"))
    register_builtin_datasets()
    assert str(tmp_path / "here") in MetadataCatalog.get("neu_det_train").json_file
    DatasetCatalog.clear()
    MetadataCatalog.clear()
    monkeypatch.delenv("DETECTRON2_DATASETS")
    register_builtin_datasets()
    assert (
        MetadataCatalog.get("neu_det_train").json_file == "datasets/neu_det/annotations/train.json"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"categories": [1]}', '{"categories": [{}]}'])
def test_a_broken_file_does_not_break_the_import(tmp_path, content):
    write_coco(tmp_path, "train")
    (tmp_path / "neu_det/annotations/train.json").write_text(content)
    register_builtin_datasets(tmp_path)
    assert MetadataCatalog.get("neu_det_train").thing_classes == NEU_DET
