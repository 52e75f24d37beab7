"""Epochs into iterations, in the stock trainer as in ours."""

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer

from detectron2_agssp.engine.epochs import install_epochs, iterations_from_epochs


@pytest.fixture
def cfg(empty_catalogs):
    """10 images, 2 of them without a label."""
    labelled = [{"annotations": [{"iscrowd": 0}]}] * 8 + [{"annotations": []}] * 2
    DatasetCatalog.register("labelled", lambda: labelled)
    DatasetCatalog.register("maps", lambda: [{"map_file": ""}] * 10)
    DatasetCatalog.register("nothing", list)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("maps",)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 1000
    cfg.SOLVER.STEPS = (600, 900)
    cfg.SOLVER.CHECKPOINT_PERIOD = 250
    cfg.TEST.EVAL_PERIOD = 500
    cfg.AGSSP.SOLVER.EPOCHS = 30.0
    return cfg


@pytest.mark.parametrize("resolve", [iterations_from_epochs, None])
def test_shares_are_kept(cfg, resolve):
    resolve = resolve or (lambda cfg: DefaultTrainer.auto_scale_workers(cfg, 1))
    resolved = resolve(cfg)
    assert resolved.SOLVER.MAX_ITER == 75
    assert resolved.SOLVER.STEPS == (45, 68)
    assert resolved.SOLVER.CHECKPOINT_PERIOD == 19
    assert resolved.TEST.EVAL_PERIOD == 38
    assert resolved.SOLVER.WARMUP_ITERS == cfg.SOLVER.WARMUP_ITERS
    assert cfg.SOLVER.MAX_ITER == 1000, "the user's config stays as it is"
    assert resolve(resolved) is resolved, "once"


@pytest.mark.parametrize(
    ("names", "filter_empty", "iterations"),
    [
        (("labelled",), True, 60),
        (("labelled",), False, 75),
        (("maps", "labelled"), True, 150),
    ],
)
def test_images_are_those_that_the_loader_takes(cfg, names, filter_empty, iterations):
    cfg.DATASETS.TRAIN = names
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    assert iterations == iterations_from_epochs(cfg).SOLVER.MAX_ITER


def test_warm_up_and_a_part_of_an_epoch(cfg):
    cfg.AGSSP.SOLVER.WARMUP_EPOCHS = 2.0
    cfg.AGSSP.SOLVER.EPOCHS = 0.01
    cfg.TEST.EVAL_PERIOD = 0
    resolved = iterations_from_epochs(cfg)
    assert (resolved.SOLVER.MAX_ITER, resolved.SOLVER.WARMUP_ITERS) == (1, 5)
    assert resolved.SOLVER.CHECKPOINT_PERIOD == 1
    assert resolved.TEST.EVAL_PERIOD == 0


def test_without_epochs_nothing_is_read_or_changed(cfg):
    cfg.AGSSP.SOLVER.EPOCHS = 0.0
    cfg.DATASETS.TRAIN = ("nowhere",)
    assert iterations_from_epochs(cfg) is cfg
    del cfg["AGSSP"]
    assert iterations_from_epochs(cfg) is cfg


def test_installing_twice_wraps_once():
    before = DefaultTrainer.auto_scale_workers
    install_epochs()
    assert DefaultTrainer.auto_scale_workers is before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("AGSSP.SOLVER.EPOCHS", -1.0, "EPOCHS must not be negative, got -1"),
        ("AGSSP.SOLVER.WARMUP_EPOCHS", -2.0, "WARMUP_EPOCHS must not be negative, got -2"),
    ],
)
def test_refuses(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        iterations_from_epochs(cfg)


@pytest.mark.parametrize("names", [(), ("nothing",)])
def test_an_empty_data_set(cfg, names):
    cfg.DATASETS.TRAIN = names
    with pytest.raises(ValueError, match=r"EPOCHS is \d+, but .*no images to pass over.*Name sets"):
        iterations_from_epochs(cfg)


def test_iterations_of_the_command_line_win_over_the_yaml_s_epochs(cfg):
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1])
    assert cfg.AGSSP.SOLVER.EPOCHS == 30
    cfg.merge_from_list(["SOLVER.MAX_ITER", 7, "SOLVER.BASE_LR", 0.1])
    assert iterations_from_epochs(cfg).SOLVER.MAX_ITER == 7
    cfg.merge_from_list(["SOLVER.MAX_ITER", 1000, "AGSSP.SOLVER.EPOCHS", 30.0])
    assert iterations_from_epochs(cfg).SOLVER.MAX_ITER == 75


def test_a_config_without_this_package_s_keys_merges_as_ever(cfg):
    stock = cfg.clone()
    del stock["AGSSP"]
    stock.merge_from_list(["SOLVER.MAX_ITER", 7])
    assert stock.SOLVER.MAX_ITER == 7
