"""OpenMMLab Faster R-CNNs: outputs equal those of a second implementation by their own names."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.checkpoint import DetectionCheckpointer

from detectron2_agssp.checkpoint.openmmlab_detector import convert_detector
from detectron2_agssp.checkpoint.openmmlab_files import convert_file
from tests.tiny_models import R18, make_model, randomize

WIDTH, CLASSES, ANCHORS = 16, 6, 3
DETECTOR = ("finetune/faster_rcnn_R50_fpn.yaml", R18, {"MODEL.RPN.CONV_DIMS": [-1]})


def mm_state() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """torchvision's ResNet-18, which names its tensors as mmdet does, and a state dict of mmdet's
    names."""
    torch.manual_seed(0)
    backbone = torchvision.models.resnet18().eval()
    randomize(backbone)
    state = {f"backbone.{n}": t for n, t in backbone.state_dict().items() if "fc." not in n}
    convolutions = {"rpn_head.rpn_conv": (WIDTH, WIDTH, 3)}
    convolutions |= {"rpn_head.rpn_cls": (ANCHORS, WIDTH, 1)}
    convolutions |= {"rpn_head.rpn_reg": (4 * ANCHORS, WIDTH, 1)}
    for level, channels in enumerate((64, 128, 256, 512)):
        convolutions[f"neck.lateral_convs.{level}.conv"] = (WIDTH, channels, 1)
        convolutions[f"neck.fpn_convs.{level}.conv"] = (WIDTH, WIDTH, 3)
    layers = {
        "roi_head.bbox_head.shared_fcs.0": (16, 49 * WIDTH),
        "roi_head.bbox_head.shared_fcs.1": (16, 16),
        "roi_head.bbox_head.fc_cls": (CLASSES + 1, 16),
        "roi_head.bbox_head.fc_reg": (4 * CLASSES, 16),
    }
    shapes = {name: (out, into, k, k) for name, (out, into, k) in convolutions.items()} | layers
    for name, shape in shapes.items():
        state[f"{name}.weight"] = 0.1 * torch.randn(shape)
        state[f"{name}.bias"] = torch.randn(shape[0])
    return backbone, state


def pyramid(backbone, state, images) -> list[torch.Tensor]:
    features = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
    laterals = []
    for level in range(4):
        features = getattr(backbone, f"layer{level + 1}")(features)
        name = f"neck.lateral_convs.{level}.conv"
        laterals.append(F.conv2d(features, state[f"{name}.weight"], state[f"{name}.bias"]))
    for level in (2, 1, 0):
        laterals[level] = laterals[level] + F.interpolate(laterals[level + 1], scale_factor=2)
    levels = []
    for level, lateral in enumerate(laterals):
        name = f"neck.fpn_convs.{level}.conv"
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        levels.append(F.conv2d(lateral, weight, bias, padding=1))
    return [*levels, levels[-1][:, :, ::2, ::2]]


def rpn(state, level):
    name = "rpn_head.rpn_conv"
    hidden = F.conv2d(level, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
    return [
        F.conv2d(hidden, state[f"rpn_head.{name}.weight"], state[f"rpn_head.{name}.bias"])
        for name in ("rpn_cls", "rpn_reg")
    ]


def box_head(state, pooled):
    hidden = pooled.flatten(1)
    head = "roi_head.bbox_head"
    for name in ("shared_fcs.0", "shared_fcs.1"):
        weight, bias = state[f"{head}.{name}.weight"], state[f"{head}.{name}.bias"]
        hidden = F.linear(hidden, weight, bias).relu()
    return [
        F.linear(hidden, state[f"{head}.{name}.weight"], state[f"{head}.{name}.bias"])
        for name in ("fc_cls", "fc_reg")
    ]


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_computes_the_same(tmp_path, prefix):
    backbone, state = mm_state()
    content = {"meta": {}, "state_dict": {f"{prefix}{name}": t for name, t in state.items()}}
    torch.save(content, tmp_path / "mm.pth")
    conversion = convert_file(tmp_path / "mm.pth", tmp_path / "d2.pth")
    assert conversion.backbone == "resnet Faster R-CNN"
    model = make_model(*DETECTOR, seed=1).eval()
    DetectionCheckpointer(model).load(str(tmp_path / "d2.pth"))
    images = torch.randn(1, 3, 64, 96)
    expected = pyramid(backbone, state, images)
    features = model.backbone(images)
    close = {"rtol": 1e-3, "atol": 1e-4}
    for level, ours in zip(expected, features.values(), strict=True):
        torch.testing.assert_close(ours, level, **close)
        scale = 1 / level.abs().max()
        objectness, deltas = model.proposal_generator.rpn_head([level * scale])
        for ours_rpn, theirs in zip((*objectness, *deltas), rpn(state, level * scale), strict=True):
            torch.testing.assert_close(ours_rpn, theirs, **close)
    pooled = torch.randn(5, WIDTH, 7, 7)
    predictions = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    for ours, theirs in zip(predictions, box_head(state, pooled), strict=True):
        torch.testing.assert_close(ours, theirs, **close)


def test_nothing_is_left_out_but_bookkeeping():
    _, state = mm_state()
    conversion = convert_detector(state)
    assert all(name.endswith("num_batches_tracked") for name in conversion.left_out)
    assert len(conversion.weights) == len(state) - len(conversion.left_out)


def test_what_has_no_counterpart_is_named():
    _, state = mm_state()
    state["roi_head.mask_head.conv_logits.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"No counterpart.*roi_head\.mask_head\.conv_logits"):
        convert_detector(state)


def test_another_file():
    with pytest.raises(ValueError, match=r"no OpenMMLab Faster R-CNN.*YOLOv8.*: head\.weight"):
        convert_detector({"head.weight": torch.zeros(1)})
