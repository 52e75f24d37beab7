"""FCOS from yaml: the model of Detectron2's LazyConfig, and what it refuses."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from tests.tiny_models import SMALL_R50, detection_inputs, make_cfg, make_model

CONFIG = "finetune/fcos_R50_fpn.yaml"
# 80 classes, and a score that an untrained model reaches.
SETTINGS = {"AGSSP.FCOS.NUM_CLASSES": 80, "AGSSP.FCOS.SCORE_THRESH_TEST": 0.01}


@pytest.fixture(scope="module")
def both():
    """Of equal weights: the yaml's, at the settings of the LazyConfig, and the LazyConfig's."""
    path = model_zoo.get_config_file("common/models/fcos.py")
    lazy = instantiate(LazyConfig.load(path).model)
    lazy.test_score_thresh = 0.01
    model = make_model(CONFIG, {"MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": ""}, SETTINGS)
    lazy.load_state_dict(model.state_dict())
    return model, lazy


def test_detections_are_those_of_the_lazy_config(both):
    inputs = detection_inputs((64, 90), (50, 64))
    with torch.no_grad():
        outputs, expected = (model.eval()(inputs) for model in both)
    for output, reference in zip(outputs, expected, strict=True):
        ours, theirs = output["instances"], reference["instances"]
        assert len(ours) > 0
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


def test_losses_are_those_of_the_lazy_config(both):
    inputs = detection_inputs((64, 90), (50, 64))
    with EventStorage():
        losses, expected = (model.train()(inputs) for model in both)
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    assert losses == expected


def test_settings_are_those_of_the_lazy_config(both):
    model, lazy = both
    for name in ("center_sampling_radius", "focal_loss_alpha", "focal_loss_gamma"):
        assert getattr(model, name) == getattr(lazy, name)
    for name in ("test_topk_candidates", "test_nms_thresh", "max_detections_per_image"):
        assert getattr(model, name) == getattr(lazy, name)


def test_every_key_reaches_the_model():
    keys = {"CENTER_SAMPLING_RADIUS": 2.5, "FOCAL_LOSS_ALPHA": 0.5, "FOCAL_LOSS_GAMMA": 1.0}
    keys |= {"SCORE_THRESH_TEST": 0.3, "TOPK_CANDIDATES_TEST": 7, "NMS_THRESH_TEST": 0.4}
    settings = {f"AGSSP.FCOS.{key}": value for key, value in keys.items()}
    settings |= {"AGSSP.FCOS.NUM_CONVS": 2, "AGSSP.FCOS.PRIOR_PROB": 0.5, "AGSSP.FCOS.NORM": ""}
    model = make_model(CONFIG, SMALL_R50, settings)
    values = (
        *(model.center_sampling_radius, model.focal_loss_alpha, model.focal_loss_gamma),
        *(model.test_score_thresh, model.test_topk_candidates, model.test_nms_thresh),
    )
    assert values == tuple(keys.values())
    assert [type(layer).__name__ for layer in model.head.cls_subnet] == ["Conv2d", "ReLU"] * 2
    assert not model.head.cls_score.bias.any(), "the logit of 0.5"


def test_levels_that_the_backbone_lacks():
    cfg = make_cfg(CONFIG, SMALL_R50, {"AGSSP.FCOS.IN_FEATURES": ("p2", "p3")})
    with pytest.raises(ValueError, match=r"asks for \['p2'\].*returns \['p3', 'p4'"):
        build_model(cfg)
