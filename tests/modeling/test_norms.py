"""Batch norms train in AGBP, statistics and affine, behind the frozen stages; in detectors none."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from tests.tiny_models import (
    SMALL,
    SMALL_R50,
    copy_of,
    detection_inputs,
    make_model,
    map_inputs,
)

NANO = {**SMALL, "AGSSP.CSPDARKNET.SIZE": "nano", "MODEL.BACKBONE.FREEZE_AT": 3}


def moved(model, inputs) -> set[str]:
    """The stages of the backbone whose statistics a training step moves."""
    before = copy_of(model)
    with EventStorage(), torch.no_grad():
        model.train()(inputs)
    return {
        name.removeprefix("backbone.").removeprefix("bottom_up.").split(".")[0]
        for name, tensor in model.state_dict().items()
        if "backbone" in name and name.endswith("running_mean")
        if not torch.equal(tensor, before[name])
    }


@pytest.mark.parametrize(
    ("path", "settings"),
    [("agbp/R50.yaml", SMALL_R50), ("agbp/cspdarknet_s.yaml", NANO)],
)
def test_in_agbp(path, settings):
    model = make_model(path, settings, {"VIS_PERIOD": 0})
    assert moved(model, map_inputs((64, 64), (64, 64))) == {"res4", "res5"}
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "norm" in name}
    assert {name.split(".")[1] for name in trained} == {"res4", "res5"}


def test_in_agdp():
    model = make_model("agdp/faster_rcnn_R50_fpn.yaml", SMALL_R50)
    assert moved(model, detection_inputs((64, 64), (64, 64))) == set()
