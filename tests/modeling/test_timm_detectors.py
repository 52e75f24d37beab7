"""Detectors on timm backbones: forward passes, pyramid levels, errors."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from tests.tiny_models import SMALL_TIMM, detection_inputs, make_cfg, make_model

FASTER_RCNN = "finetune/faster_rcnn_lite0_fpn.yaml"
RETINANET = "finetune/retinanet_lite0_fpn.yaml"


@pytest.mark.parametrize(
    ("config", "model_name"),
    [
        (FASTER_RCNN, "tf_efficientnet_lite0"),
        (FASTER_RCNN, "resnet18"),
        (FASTER_RCNN, "convnext_atto"),
        (FASTER_RCNN, "swin_tiny_patch4_window7_224"),
        (RETINANET, "tf_efficientnet_lite0"),
        (RETINANET, "mobilenetv3_small_050"),
        (RETINANET, "swin_tiny_patch4_window7_224"),
    ],
)
def test_detectors_train_and_detect(config, model_name):
    has_batch_norm = not model_name.startswith(("convnext", "swin"))
    norm = {"AGSSP.TIMM.MODEL": model_name, "AGSSP.TIMM.NORM": "FrozenBN" if has_batch_norm else ""}
    model = make_model(config, SMALL_TIMM, norm)
    inputs = detection_inputs((64, 90), (50, 64))
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert [output["instances"].image_size for output in outputs] == [(64, 90), (50, 64)]


@pytest.mark.parametrize(
    ("config", "strides"),
    [
        (FASTER_RCNN, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        (RETINANET, {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
    ],
)
def test_pyramid_levels(config, strides):
    backbone = make_model(config, SMALL_TIMM).backbone
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == strides
    assert backbone.size_divisibility == 32
    features = backbone(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(feature.shape[1:]) for name, feature in features.items()} == {
        name: (16, -(-64 // stride), -(-96 // stride)) for name, stride in strides.items()
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"AGSSP.TIMM.OUT_FEATURES": ("res3", "res4", "res5")},
            r"FPN.IN_FEATURES asks for \['res2'\].*returns \['res3', 'res4', 'res5'\].*TIMM",
        ),
        (
            {"MODEL.PIXEL_MEAN": [127.0], "MODEL.PIXEL_STD": [128.0]},
            "timm backbone takes 3 channels, got 1",
        ),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(make_cfg(FASTER_RCNN, SMALL_TIMM, settings))
