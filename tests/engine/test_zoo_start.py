"""Trainings that start from ``agssp://zoo/``: what is taken, what starts afresh and is named."""

import argparse
import re

import pytest
import torch

from detectron2_agssp.checkpoint import BackboneCoverageError
from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.engine import pretrain as module
from detectron2_agssp.engine.pretrain import pretrain
from detectron2_agssp.engine.scaffold import write_finetuning_config
from detectron2_agssp.engine.training import train_or_evaluate
from tests.engine.test_pretrain import SETTINGS, flat
from tests.engine.test_trainer import SHORT
from tests.tiny_data import write_datasets
from tests.tiny_models import make_cfg
from tests.zoo import SMALL_MOBILE, small_zoo

ARGUMENTS = argparse.Namespace(resume=False, eval_only=False, config_file="")
PREDICTOR = "roi_heads.box_predictor."
# The rate is so small that what was loaded is still recognised after training.
FINETUNING = {
    **SHORT,
    "DATASETS.TRAIN": ("neu_det_train",),
    "DATASETS.TEST": (),
    "AGSSP.SOLVER.BEST_METRIC": "",
    "TEST.EVAL_PERIOD": 0,
    "SOLVER.BASE_LR": 1e-9,
}


@pytest.fixture
def zoo(tmp_path):
    with small_zoo(tmp_path / "made") as root:
        yield root


@pytest.fixture
def data(tmp_path, empty_catalogs):
    root = write_datasets(tmp_path / "datasets")
    register_builtin_datasets(root)
    return root / "neu_det"


def fine_tune(output, weights, *settings) -> tuple[dict, str]:
    """The final weights and the log of two iterations."""
    own = {"OUTPUT_DIR": str(output), "MODEL.WEIGHTS": weights}
    cfg = make_cfg("finetune/faster_rcnn_lite0_fpn.yaml", SMALL_MOBILE, FINETUNING, own, *settings)
    train_or_evaluate(cfg, ARGUMENTS)
    final = torch.load(output / "model_final.pth", weights_only=True)["model"]
    return final, (output / "log.txt").read_text()


def of(log: str, part: str) -> tuple[int, int]:
    """How many tensors of how many of a part were loaded."""
    found = re.search(rf"{part} \((\d+) of (\d+) tensors\)", log)
    return int(found[1]), int(found[2])


@pytest.mark.usefixtures("data")
def test_a_detector_fine_tunes_with_any_number_of_classes(zoo, tmp_path):
    final, log = fine_tune(tmp_path / "run", "agssp://zoo/detector.pth")
    theirs = torch.load(zoo / "detector.pth", weights_only=True)["model"]
    for part, total in (("backbone", 180), ("neck", 16)):
        loaded, expected = of(log, part)
        assert loaded == expected >= total
    loaded, expected = of(log, "heads")
    assert loaded == expected - 4
    assert (
        "Start afresh, as expected with 6 classes instead of 1: roi_heads.box_predictor.cls_score, "
        "roi_heads.box_predictor.bbox_pred." in log
    )
    assert "random remain" not in log
    assert "WARNING" not in log
    assert final.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.startswith(PREDICTOR):
            assert final[name].shape != tensor.shape
        else:
            assert (
                final[name].dtype
                == (tensor.float() if tensor.is_floating_point() else tensor).dtype
            )
            torch.testing.assert_close(final[name].double(), tensor.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("data")
def test_a_backbone_alone_is_taken_for_what_it_is(zoo, tmp_path):
    final, log = fine_tune(tmp_path / "run", "agssp://zoo/backbone.pth")
    theirs = torch.load(zoo / "backbone.pth", weights_only=True)["model"]
    loaded, expected = of(log, "backbone")
    assert loaded == expected == len(theirs)
    assert "The rest starts afresh, as expected: of these weights only the backbone is taken" in log
    for name, tensor in theirs.items():
        found = final[f"backbone.bottom_up.{name}"].float()
        torch.testing.assert_close(found, tensor.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("data", "zoo")
@pytest.mark.parametrize("name", ["detector", "backbone"])
def test_another_backbone_is_refused(tmp_path, name):
    other = {"AGSSP.TIMM.MODEL": "resnet18"}
    with pytest.raises(BackboneCoverageError, match=r"AGSSP\.TIMM\.MODEL: .mobilenetv3_small_050"):
        fine_tune(tmp_path / "run", f"agssp://zoo/{name}.pth", other)


@pytest.mark.usefixtures("data", "zoo")
def test_what_is_not_in_the_zoo_is_no_failed_download(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Did you mean agssp://zoo/detector\.pth\?"):
        fine_tune(tmp_path / "run", "agssp://zoo/detectr.pth")


@pytest.mark.usefixtures("zoo")
def test_a_config_for_own_labels_starts_from_it(data, tmp_path):
    labels = data / "annotations" / "train.json"
    made = write_finetuning_config(tmp_path / "own.yaml", labels, run="agssp://zoo/detector.pth")
    assert made.detector == "faster_rcnn_lite0_fpn"
    cfg = make_cfg(made.config_file)
    # The name, which means the same on another machine.
    assert cfg.MODEL.WEIGHTS == "agssp://zoo/detector.pth"
    assert cfg.AGSSP.TIMM.MODEL == "mobilenetv3_small_050"
    assert cfg.MODEL.FPN.OUT_CHANNELS == 16


@pytest.mark.usefixtures("zoo")
def test_pretraining_starts_every_agbp_from_it(data, tmp_path, monkeypatch):
    """The energies and AGDP start from what AGBP has made of it."""
    started = {}

    def train_on_maps(cfg, images, maps, **settings):
        started[cfg.OUTPUT_DIR.rpartition("/")[2]] = cfg.MODEL.WEIGHTS
        return stages["train_on_maps"](cfg, images, maps, **settings)

    def make_maps(cfg, images, maps, **settings):
        started[maps.name] = cfg.MODEL.WEIGHTS
        return stages["make_maps"](cfg, images, maps, **settings)

    stages = {name: getattr(module, name) for name in ("train_on_maps", "make_maps")}
    monkeypatch.setattr(module, "train_on_maps", train_on_maps)
    monkeypatch.setattr(module, "make_maps", make_maps)
    own = "agssp://zoo/backbone.pth"
    out = tmp_path / "out"
    pretrain(data / "images", out, options=flat({**SETTINGS, "MODEL.WEIGHTS": own}))
    assert started == {
        "maps": own,  # which mahalanobis does not use
        "agbp_round1": own,
        "maps_round1": str(out / "agbp_round1" / "model_final.pth"),
        "agbp_round2": own,
        "maps_round2": str(out / "agbp_round2" / "model_final.pth"),
        "agdp": str(out / "agbp_round2" / "model_final.pth"),
    }
