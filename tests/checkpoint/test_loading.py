"""AGSSP weights through Detectron2's own checkpointer, by MODEL.WEIGHTS alone."""

import logging
import subprocess
import sys

import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model

from detectron2_agssp.checkpoint import BackboneCoverageError, export_backbone
from tests.tiny_models import (
    SMALL_R50,
    SMALL_TIMM,
    copy_of,
    make_cfg,
    make_model,
    randomize,
)

SMALL_MOBILE = {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}
# Detectron2's own configs of the detectors that users have.
ZOO = [
    "Base-RCNN-FPN.yaml",
    "Base-RCNN-C4.yaml",
    "Base-RCNN-DilatedC5.yaml",
    "Base-RetinaNet.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
]
# Loads the export into stock Detectron2 and lists the tensors that differ from the file's.
STOCK_LOADING = """
import sys, torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
model = build_model(CfgNode.load_cfg(open(sys.argv[1])))
DetectionCheckpointer(model).load(sys.argv[2])
weights = torch.load(sys.argv[2], weights_only=True)["model"]
loaded = model.backbone.bottom_up.state_dict()
assert not any(name.startswith("detectron2_agssp") for name in sys.modules)
assert loaded.keys() == weights.keys()
print([name for name in weights if not torch.equal(weights[name], loaded[name])])
"""


def zoo_model(config: str):
    """A small version; its config's MODEL.WEIGHTS are not loaded."""
    torch.manual_seed(1)
    return build_model(make_cfg(model_zoo.get_config_file(config), SMALL_R50))


@pytest.fixture(scope="module")
def distiller():
    """An AGBP model in which every tensor, statistics included, has numbers of its own."""
    model = make_model("agbp/R50.yaml", SMALL_R50)
    randomize(model.backbone)
    return model


@pytest.fixture(scope="module", params=["backbone_final.pth", "model_final.pth"])
def weights(request, distiller, tmp_path_factory):
    """The two files that AGBP leaves behind."""
    folder = tmp_path_factory.mktemp("agbp")
    if request.param == "backbone_final.pth":
        return str(export_backbone(distiller, folder / request.param))
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    checkpointer = DetectionCheckpointer(distiller, str(folder), optimizer=optimizer)
    checkpointer.save("model_final", iteration=7)
    return str(folder / request.param)


def pretrained_part(model) -> dict:
    """The detector's tensors that AGBP pretrains, under the backbone's bare names."""
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    tensors = bottom_up.state_dict()
    head = getattr(getattr(model, "roi_heads", None), "res5", None)
    if head is not None:
        tensors |= {f"res5.{name}": tensor for name, tensor in head.state_dict().items()}
    return tensors


@pytest.mark.parametrize("config", ZOO)
def test_detectors_take_the_whole_backbone(config, weights, distiller):
    model = zoo_model(config)
    DetectionCheckpointer(model).load(weights)
    # Batch norms train in AGBP and are frozen in the detectors, which do not count batches.
    expected = {
        name: tensor
        for name, tensor in distiller.backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    loaded = pretrained_part(model)
    assert loaded.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(expected[name], loaded[name])] == []


def test_stock_detectron2_takes_the_export_without_this_package(distiller, tmp_path):
    path = export_backbone(distiller, tmp_path / "backbone.pth")
    cfg = make_cfg(model_zoo.get_config_file("Base-RCNN-FPN.yaml"), SMALL_R50)
    del cfg["AGSSP"]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = [sys.executable, "-c", STOCK_LOADING, str(tmp_path / "config.yaml"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("norm", ["", "FrozenBN"])
@pytest.mark.parametrize("config", ["faster_rcnn_lite0_fpn", "retinanet_lite0_fpn"])
def test_timm_backbones(config, norm, tmp_path):
    """Whatever the norm in AGBP, the detector's may be FrozenBN."""
    distiller = make_model("agbp/lite0.yaml", SMALL_MOBILE, {"AGSSP.TIMM.NORM": norm})
    randomize(distiller.backbone)
    path = export_backbone(distiller, tmp_path / "backbone.pth")
    model = make_model(f"finetune/{config}.yaml", SMALL_MOBILE, seed=1)
    DetectionCheckpointer(model).load(str(path))
    expected = distiller.backbone.state_dict()
    loaded = model.backbone.bottom_up.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


def test_a_bare_backbone_and_another_agbp_run(weights, distiller):
    expected = distiller.backbone.state_dict()
    bare = build_backbone(make_cfg("agbp/R50.yaml", SMALL_R50))
    other = make_model("agbp/R50.yaml", SMALL_R50, seed=1)
    for model, loaded in ((bare, bare), (other, other.backbone)):
        DetectionCheckpointer(model).load(weights)
        tensors = loaded.state_dict()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


OTHER_BACKBONES = {
    "detector": ("Base-RCNN-FPN.yaml", {"MODEL.RESNETS.RES2_OUT_CHANNELS": 32}),
    "distiller": ("agbp/R50.yaml", {"MODEL.RESNETS.RES2_OUT_CHANNELS": 32}),
    "deeper": ("agbp/R50.yaml", {"MODEL.RESNETS.DEPTH": 101}),
    "timm": ("finetune/faster_rcnn_lite0_fpn.yaml", SMALL_MOBILE),
}


@pytest.mark.parametrize("kind", OTHER_BACKBONES)
def test_another_backbone_raises_and_lists_what_is_missing(kind, weights):
    config, settings = OTHER_BACKBONES[kind]
    path = model_zoo.get_config_file(config) if config.startswith("Base") else config
    model = make_model(path, SMALL_R50, settings)
    pattern = r"tensors\) cover \d+% of the \d+ backbone tensors.*90%.*Missing:\n  backbone\."
    with pytest.raises(BackboneCoverageError, match=r"(?s)" + pattern):
        DetectionCheckpointer(model).load(weights)


@pytest.mark.parametrize(("share", "loads"), [(0.05, True), (0.15, False)])
def test_ninety_percent_is_the_limit(share, loads, distiller, tmp_path):
    path = export_backbone(distiller, tmp_path / "backbone.pth")
    content = torch.load(path, weights_only=True)
    del content["agssp"]  # agssp convert does not know it
    names = sorted(content["model"])
    for name in names[: int(share * len(names))]:
        del content["model"][name]
    torch.save(content, path)
    checkpointer = DetectionCheckpointer(zoo_model("Base-RCNN-FPN.yaml"))
    if loads:
        checkpointer.load(str(path))
    else:
        before = copy_of(checkpointer.model)
        with pytest.raises(BackboneCoverageError, match=r"cover 85% of the \d+ backbone"):
            checkpointer.load(str(path))
        after = checkpointer.model.state_dict()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_other_checkpoints_load_as_ever(tmp_path):
    """No check: an unrelated file leaves the parameters as they are."""
    model = zoo_model("Base-RCNN-FPN.yaml")
    before = copy_of(model)
    torch.save({"model": {"unrelated.weight": torch.ones(3)}}, tmp_path / "other.pth")
    extra = DetectionCheckpointer(model).load(str(tmp_path / "other.pth"))
    assert extra == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_resuming_restores_all_of_agbp(distiller, tmp_path):
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.125)
    DetectionCheckpointer(distiller, str(tmp_path), optimizer=optimizer).save("a", iteration=7)
    model = make_model("agbp/R50.yaml", SMALL_R50, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 7
    assert optimizer.param_groups[0]["lr"] == 0.125
    expected = distiller.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, []),
        ({"MODEL.PIXEL_MEAN": [103.5, 116.3, 123.7]}, []),
        ({"MODEL.PIXEL_MEAN": [127.0] * 3}, ["MODEL.PIXEL_MEAN: [103.5"]),
        (
            {"MODEL.PIXEL_STD": [58.0] * 3, "INPUT.FORMAT": "RGB"},
            ["MODEL.PIXEL_STD: [1.0, 1.0, 1.0]", 'INPUT.FORMAT: "BGR"'],
        ),
    ],
)
@pytest.mark.parametrize("config", ["finetune/retinanet_R50_fpn.yaml", "agbp/R50.yaml"])
def test_other_pixels_than_in_pretraining_warn(config, settings, lines, weights, messages):
    model = make_model(config, SMALL_R50, settings)
    pixels = model.pixel_mean.clone(), model.pixel_std.clone()
    DetectionCheckpointer(model).load(weights)
    assert ("other pixel statistics" in messages()) == bool(lines)
    assert all(line in messages() for line in lines)
    # The config's hold.
    assert torch.equal(model.pixel_mean, pixels[0])
    assert torch.equal(model.pixel_std, pixels[1])
    assert "agssp_input_is_bgr" not in messages()


@pytest.mark.parametrize(
    ("config", "key", "predictor"),
    [
        ("faster_rcnn_lite0_fpn", "MODEL.ROI_HEADS.NUM_CLASSES", "roi_heads.box_predictor."),
        ("retinanet_lite0_fpn", "MODEL.RETINANET.NUM_CLASSES", "head.cls_score."),
    ],
)
def test_agdp_weights_take_another_number_of_classes(config, key, predictor, tmp_path):
    agdp = make_model(f"agdp/{config}.yaml", SMALL_MOBILE)
    randomize(agdp)
    DetectionCheckpointer(agdp, str(tmp_path)).save("model_final")
    model = make_model(f"finetune/{config}.yaml", SMALL_MOBILE, {key: 6}, seed=1)
    fresh = copy_of(model)
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    expected, loaded = agdp.state_dict(), model.state_dict()
    assert loaded.keys() == expected.keys()
    different = {name for name in loaded if not torch.equal(loaded[name], fresh[name])}
    assert different == {name for name in loaded if not name.startswith(predictor)}
    assert all(torch.equal(loaded[name], expected[name]) for name in different)
