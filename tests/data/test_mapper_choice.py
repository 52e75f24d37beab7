"""AGSSP.MAPPER in Detectron2's own loaders."""

import detectron2.data.build
import numpy as np
import pytest
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from PIL import Image

from detectron2_agssp import plugin
from detectron2_agssp.data import (
    AnomalyMapMapper,
    DetectionMapper,
    PseudoBoxMapper,
    build_mapper,
    register_unlabeled,
)
from detectron2_agssp.data.mapper_choice import install_mapper_choice


@pytest.fixture
def cfg(tiny_cfg, tmp_path, write_maps, empty_catalogs):
    """Trains on four images of which one has an anomaly; batches of two."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (60, 40)).save(tmp_path / f"images/{number}.png")
        anomaly_map = np.zeros((4, 6))
        anomaly_map[1, 2] = number == 0
        write_maps(tmp_path / "maps", {f"{number}.png": anomaly_map}, {f"{number}.png": (40, 60)})
    register_unlabeled("mine", tmp_path / "images", tmp_path / "maps")
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ("mine_boxes",)
    tiny_cfg.SOLVER.IMS_PER_BATCH = 2
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    tiny_cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return tiny_cfg


def mapper_in(loader):
    """The mapper that Detectron2's loader applies: wrapped in samplers and batchers."""
    dataset = loader.dataset
    while not hasattr(dataset, "_map_func"):
        dataset = dataset.dataset
    return dataset._map_func._obj


@pytest.mark.parametrize(
    ("name", "training", "testing"),
    [
        ("", DatasetMapper, DatasetMapper),
        ("AnomalyMapMapper", AnomalyMapMapper, AnomalyMapMapper),
        ("PseudoBoxMapper", PseudoBoxMapper, DetectionMapper),
        ("DetectionMapper", DetectionMapper, DetectionMapper),
    ],
)
def test_loaders(cfg, name, training, testing):
    cfg.AGSSP.MAPPER = name
    assert type(mapper_in(build_detection_train_loader(cfg))) is training
    assert type(mapper_in(build_detection_test_loader(cfg, "mine_boxes"))) is testing


@pytest.mark.parametrize(
    ("name", "key"), [("AnomalyMapMapper", "anomaly_map"), ("PseudoBoxMapper", "instances")]
)
def test_batches(cfg, name, key):
    """Also images without a box come, which Detectron2's filter of empty images could drop."""
    cfg.AGSSP.MAPPER = name
    batches = iter(build_detection_train_loader(cfg))
    samples = [sample for _ in range(4) for sample in next(batches)]
    assert all(key in sample and "image" in sample for sample in samples)
    assert {sample["image_id"] for sample in samples} == {f"{number}.png" for number in range(4)}


def test_a_mapper_that_is_passed_is_taken(cfg):
    cfg.AGSSP.MAPPER = "AnomalyMapMapper"
    mine = DatasetMapper(cfg, True)
    loader = build_detection_train_loader(cfg, mapper=mine)
    assert mapper_in(loader) is mine


def test_unknown_name_lists_the_choices(cfg):
    cfg.AGSSP.MAPPER = "MapMapper"
    message = (
        r"AGSSP\.MAPPER is 'MapMapper'.*'AnomalyMapMapper', 'DetectionMapper', 'PseudoBoxMapper'"
    )
    with pytest.raises(ValueError, match=message):
        build_detection_train_loader(cfg)
    with pytest.raises(ValueError, match=message):
        build_detection_test_loader(cfg, "mine")


def test_config_without_the_node(cfg):
    del cfg["AGSSP"]
    assert type(build_mapper(cfg)) is DatasetMapper
    assert type(mapper_in(build_detection_train_loader(cfg))) is DatasetMapper


def test_installing_again_changes_nothing(cfg):
    before = detectron2.data.build.DatasetMapper
    assert before is not DatasetMapper
    install_mapper_choice()
    plugin.install()
    assert detectron2.data.build.DatasetMapper is before
    assert detectron2.data.DatasetMapper is DatasetMapper
    cfg.AGSSP.MAPPER = ""
    assert type(mapper_in(build_detection_train_loader(cfg))) is DatasetMapper


def test_a_replacement_of_the_users_stays(monkeypatch):
    monkeypatch.setattr(detectron2.data.build, "DatasetMapper", "the user's")
    install_mapper_choice()
    assert detectron2.data.build.DatasetMapper == "the user's"
