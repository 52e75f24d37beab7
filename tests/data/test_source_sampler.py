"""AGSSP.DATALOADER.SOURCE_POWER in Detectron2's own loader."""

from collections import Counter

import detectron2.data.build
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from PIL import Image

from detectron2_agssp.data import register_unlabeled
from detectron2_agssp.data.source_sampler import install_source_sampler, source_repeat_factors

SOURCES = {"a": 16, "b": 4, "c": 1}


@pytest.mark.parametrize(("power", "parts"), [(0, [16, 4, 1]), (0.5, [4, 2, 1]), (1, [1, 1, 1])])
def test_parts_of_an_epoch(power, parts):
    sources = [name for name, count in SOURCES.items() for _ in range(count)]
    factors = source_repeat_factors(sources, power)
    assert factors.sum().item() == pytest.approx(21, rel=1e-5)
    found = [factors[[name == source for source in sources]].sum().item() for name in SOURCES]
    assert found == pytest.approx([21 * part / sum(parts) for part in parts], rel=1e-5)


def test_one_image_and_one_source():
    assert source_repeat_factors(["a"], 1).tolist() == [1]
    assert torch.equal(source_repeat_factors(["a"] * 3, 0.5), torch.ones(3))


@pytest.fixture
def cfg(tiny_cfg, tmp_path, write_maps, empty_catalogs):
    names = [f"{source}/{n}.png" for source, count in SOURCES.items() for n in range(count)]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16)).save(tmp_path / "images" / name)
    maps = {name: np.eye(4, 6) for name in names}
    write_maps(tmp_path / "maps", maps, dict.fromkeys(names, (16, 24)))
    register_unlabeled("mine", tmp_path / "images", tmp_path / "maps")
    tiny_cfg.DATASETS.TRAIN = ("mine",)
    tiny_cfg.SOLVER.IMS_PER_BATCH = 3
    tiny_cfg.SEED = 1
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (16,)
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    return tiny_cfg


@pytest.mark.parametrize("mapper", ["AnomalyMapMapper", "PseudoBoxMapper"])
def test_in_agbp_and_agdp(cfg, mapper):
    cfg.AGSSP.MAPPER = mapper
    cfg.AGSSP.DATALOADER.SOURCE_POWER = 1.0
    cfg.DATASETS.TRAIN = ("mine" if mapper == "AnomalyMapMapper" else "mine_boxes",)
    batches = iter(build_detection_train_loader(cfg))
    shown = Counter(sample["image_id"][0] for _ in range(70) for sample in next(batches))
    assert all(55 <= shown[source] <= 85 for source in SOURCES)


def test_without_the_key_the_sampler_is_detectron2_s(cfg):
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("mine", 2.0)]
    sampler = detectron2.data.build._build_weighted_sampler(cfg)
    assert sampler._int_part.tolist() == [2] * 21
    installed = detectron2.data.build._build_weighted_sampler
    install_source_sampler()
    assert detectron2.data.build._build_weighted_sampler is installed


def test_what_does_not_go_together(cfg):
    cfg.AGSSP.DATALOADER.SOURCE_POWER = 0.5
    DatasetCatalog.register("labelled", lambda: [{"file_name": "a.png", "annotations": []}] * 2)
    cfg.DATASETS.TRAIN = ("labelled",)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    with pytest.raises(ValueError, match="2 of 2 images of labelled have no source"):
        build_detection_train_loader(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    with pytest.raises(ValueError, match=r"0\.5 needs DATALOADER\.SAMPLER_TRAIN Weighted"):
        build_detection_train_loader(cfg)
    cfg.AGSSP.DATALOADER.SOURCE_POWER = 1.5
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1\.5"):
        build_detection_train_loader(cfg)
