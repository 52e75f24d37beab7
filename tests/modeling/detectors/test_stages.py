"""Each detector beside Faster R-CNN and RetinaNet: a training step, and from AGDP's one class to
several."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.events import EventStorage

from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from tests.tiny_models import SMALL_R50, copy_of, detection_inputs, make_model, randomize

SETTINGS = {
    "fcos_R50_fpn": {**SMALL_R50, "AGSSP.FCOS.NORM": "", "AGSSP.FCOS.NUM_CONVS": 1},
    "cascade_rcnn_R50_fpn": SMALL_R50,
}
CLASS_PREDICTORS = {
    "fcos_R50_fpn": ["head.cls_score"],
    "cascade_rcnn_R50_fpn": [f"roi_heads.box_predictor.{stage}.cls_score" for stage in range(3)],
}
STAGES = [(stage, name) for stage in ("agdp", "finetune") for name in SETTINGS]


@pytest.mark.parametrize(("stage", "name"), STAGES)
def test_a_training_step(stage, name):
    """On images of different sizes, one of them without boxes."""
    model = make_model(f"{stage}/{name}.yaml", SETTINGS[name]).train()
    inputs = detection_inputs((64, 90), (50, 64))
    inputs[1]["instances"] = inputs[1]["instances"][:0]
    with EventStorage():
        losses = model(inputs)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    reached = {path for path, p in model.named_parameters() if p.grad is not None}
    assert reached == {path for path, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert [output["instances"].image_size for output in outputs] == [(64, 90), (50, 64)]


@pytest.mark.parametrize("name", SETTINGS)
def test_agdp_weights_take_another_number_of_classes(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    agdp = make_model(f"agdp/{name}.yaml", SETTINGS[name])
    randomize(agdp)
    CheckedCheckpointer(agdp, str(tmp_path)).save("model_final")
    model = make_model(f"finetune/{name}.yaml", SETTINGS[name], seed=1)
    fresh = copy_of(model)
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    expected, loaded = agdp.state_dict(), model.state_dict()
    afresh = {path for path in loaded if path.startswith(tuple(CLASS_PREDICTORS[name]))}
    assert afresh
    for path, tensor in loaded.items():
        assert torch.equal(tensor, fresh[path] if path in afresh else expected[path]), path
    said = [record.getMessage() for record in caplog.records if "afresh" in record.getMessage()]
    layers = ", ".join(CLASS_PREDICTORS[name])
    assert len(said) == 1
    assert said[0].endswith(f"as expected with 6 classes instead of 1: {layers}.")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
