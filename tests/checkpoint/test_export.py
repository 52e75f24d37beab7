"""What export_backbone writes: names, tensors, record."""

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn

from detectron2_agssp.checkpoint import export_backbone
from tests.tiny_models import R18, SMALL_R50, SMALL_TIMM, make_cfg, make_model, randomize

SMALL_MOBILE = {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}
MODELS = {
    "agbp resnet": ("agbp/R50.yaml", R18),
    "agbp timm": ("agbp/lite0.yaml", {**SMALL_MOBILE, "AGSSP.TIMM.NORM": ""}),
    "fpn resnet": ("finetune/faster_rcnn_R50_fpn.yaml", SMALL_R50),
    "fpn timm": ("finetune/retinanet_lite0_fpn.yaml", SMALL_MOBILE),
}


@pytest.mark.parametrize("kind", MODELS)
def test_holds_the_whole_backbone_under_bare_names(kind, tmp_path):
    model = make_model(*MODELS[kind])
    randomize(model)
    path = export_backbone(model, tmp_path / "deep" / "backbone.pth")
    content = torch.load(path, weights_only=True)
    assert content["matching_heuristics"] is True
    assert content["__author__"] == "detectron2_agssp"
    backbone = getattr(model.backbone, "bottom_up", model.backbone)
    expected = {
        name: tensor
        for name, tensor in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert content["model"].keys() == expected.keys()
    for name, tensor in content["model"].items():
        assert torch.equal(tensor, expected[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not a view of a larger one
    assert not list((tmp_path / "deep").glob("*.tmp"))


@pytest.mark.parametrize(
    ("kind", "backbone", "settings"),
    [
        (
            "agbp resnet",
            "build_resnet_backbone",
            {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64},
        ),
        ("agbp timm", "build_timm_backbone", {"AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}),
    ],
)
def test_records_pixels_and_backbone(kind, backbone, settings, tmp_path):
    cfg = make_cfg(*MODELS[kind])
    path = export_backbone(make_model(*MODELS[kind]), tmp_path / "backbone.pth")
    recorded = torch.load(path, weights_only=True)["agssp"]
    assert recorded["pixel_mean"] == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert recorded["pixel_std"] == pytest.approx(cfg.MODEL.PIXEL_STD)
    assert recorded["format"] == cfg.INPUT.FORMAT
    assert recorded["backbone"] == backbone
    assert recorded["settings"]["backbone"] == settings


def test_a_detector_s_record(tmp_path):
    path = export_backbone(make_model(*MODELS["fpn timm"]), tmp_path / "backbone.pth")
    recorded = torch.load(path, weights_only=True)["agssp"]
    assert recorded["format"] == "RGB"
    assert recorded["pixel_mean"] == [127.0] * 3


@pytest.mark.parametrize("name", ["backbone.pkl", "backbone", "backbone.pth.tar"])
def test_another_suffix_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"must end in \.pth, got .*{name}"):
        export_backbone(make_model(*MODELS["agbp resnet"]), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "model",
    [nn.Conv2d(3, 3, 1), build_backbone(make_cfg(*MODELS["agbp resnet"]))],
    ids=["layer", "bare backbone"],
)
def test_a_model_without_backbone_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no .backbone to export.*Gen"):
        export_backbone(model, tmp_path / "backbone.pth")
