"""Data sets that a config brings along: registered where it is read, in every way of reading."""

import json

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.data.configured import install_configured_datasets
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image, write_coco
from detectron2_agssp.io.config_reading import read_config

pytestmark = pytest.mark.usefixtures("empty_catalogs")


def write_labels(path, classes=("burr", "dent")):
    content = {
        "images": [coco_image(1, "a.png", height=16, width=20)],
        "annotations": [coco_annotation(1, 1, len(classes), [0, 0, 9, 8])],
        "categories": coco_categories(classes)[::-1],
    }
    write_coco(path, content)
    return path


def entries(json_file, image_root, name="mine_train"):
    return [[name, str(json_file), str(image_root)]]


@pytest.fixture
def config(tmp_path):
    """A yaml that brings ``mine_train`` along."""
    coco = entries(write_labels(tmp_path / "own.json"), tmp_path / "images")
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"AGSSP": {"DATA": {"COCO": coco}}}))
    return path


def by_merge_from_file(config):
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    return cfg


def by_key_and_value(config):
    cfg = get_cfg()
    coco = json.loads(config.read_text())["AGSSP"]["DATA"]["COCO"]
    cfg.merge_from_list(["AGSSP.DATA.COCO", str(coco)])
    return cfg


def by_the_config_of_a_run(config):
    dumped = config.with_name("config.yaml")
    dumped.write_text(by_merge_from_file(config).dump())
    DatasetCatalog.clear()
    MetadataCatalog.clear()
    return by_merge_from_file(dumped)


def by_an_old_version(config):
    """Detectron2 turns the config itself into the older version, and back."""
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "VERSION": 1}))
    return by_merge_from_file(config)


@pytest.mark.parametrize(
    "read", [by_merge_from_file, by_key_and_value, by_the_config_of_a_run, by_an_old_version]
)
def test_reading_a_config_registers_its_data(config, tmp_path, read):
    read(config)
    assert DatasetCatalog.list() == ["mine_train"]
    metadata = MetadataCatalog.get("mine_train")
    assert metadata.thing_classes == ["burr", "dent"]
    assert metadata.evaluator_type == "coco"
    (entry,) = DatasetCatalog.get("mine_train")
    assert entry["file_name"] == str(tmp_path / "images" / "a.png")
    assert entry["annotations"][0]["category_id"] == 1


def test_reading_again_keeps_what_is_there_and_sees_new_classes(config, tmp_path):
    read_config(config)
    MetadataCatalog.get("mine_train").thing_colors = [(1, 2, 3)] * 2
    read_config(config)
    assert MetadataCatalog.get("mine_train").thing_colors == [(1, 2, 3)] * 2
    write_labels(tmp_path / "own.json", ["burr", "dent", "pit"])
    read_config(config)
    assert MetadataCatalog.get("mine_train").thing_classes == ["burr", "dent", "pit"]
    assert DatasetCatalog.get("mine_train")[0]["annotations"][0]["category_id"] == 2


def test_another_data_set_of_that_name_is_refused(config, tmp_path):
    DatasetCatalog.register("mine_train", lambda: ["theirs"])
    with pytest.raises(ValueError, match=r"mine_train is .*own\.json.*Choose another name"):
        read_config(config)
    assert DatasetCatalog.get("mine_train") == ["theirs"]


def test_files_that_are_not_there_are_no_error_before_they_are_used(tmp_path):
    cfg = get_cfg()
    cfg.AGSSP.DATA.COCO = entries(tmp_path / "absent.json", tmp_path)
    cfg.merge_from_list([])
    assert "thing_classes" not in MetadataCatalog.get("mine_train").as_dict()
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        DatasetCatalog.get("mine_train")


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_labels(tmp_path / "own.json")
    get_cfg().merge_from_list(["AGSSP.DATA.COCO", entries("~/own.json", "~/images")])
    (entry,) = DatasetCatalog.get("mine_train")
    assert entry["file_name"] == str(tmp_path / "images" / "a.png")


@pytest.mark.parametrize(
    "entry", ["mine", ["mine", "a.json"], ["mine", "a.json", 3], ["", "a.json", "images"]]
)
def test_an_entry_that_is_no_data_set(entry):
    with pytest.raises(ValueError, match=r"AGSSP\.DATA\.COCO has the entry .*Each is \[name, COCO"):
        get_cfg().merge_from_list(["AGSSP.DATA.COCO", [entry]])


def test_other_configs_are_merged_as_ever():
    cfg = CfgNode({"A": 1})
    cfg.merge_from_list(["A", 2])
    assert cfg.A == 2
    get_cfg().merge_from_list(["MODEL.DEVICE", "cpu"])
    assert DatasetCatalog.list() == []


def test_it_is_installed_once():
    before = CfgNode.merge_from_list, CfgNode.merge_from_other_cfg
    install_configured_datasets()
    assert (CfgNode.merge_from_list, CfgNode.merge_from_other_cfg) == before
