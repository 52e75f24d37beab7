"""Swin, ViT and CSPDarknet by yaml: outputs, what FREEZE_AT freezes, gradients, errors."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from detectron2_agssp.modeling.backbone.cspdarknet import CSPDarknet, CSPDarknetSize
from detectron2_agssp.modeling.backbone.pafpn import PAFPN
from detectron2_agssp.modeling.backbone.swin import SIZES, SwinBackbone, SwinSize
from detectron2_agssp.modeling.backbone.vit import ViTBackbone, ViTSize

SMALL_SWIN = [
    *("AGSSP.SWIN.EMBED_DIM", 8, "AGSSP.SWIN.DEPTHS", (1, 1, 2, 1)),
    *("AGSSP.SWIN.NUM_HEADS", (1, 2, 2, 4)),
]
FPN = ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 8]
NANO = ["AGSSP.CSPDARKNET.SIZE", "nano"]
TINY_VIT = ["AGSSP.VIT.SIZE", "tiny"]
KEYS = {
    "build_swin_backbone": SMALL_SWIN,
    "build_swin_fpn_backbone": [*SMALL_SWIN, *FPN],
    "build_vit_backbone": TINY_VIT,
    "build_vit_fpn_backbone": [*TINY_VIT, "MODEL.FPN.OUT_CHANNELS", 8],
    "build_cspdarknet_backbone": NANO,
    "build_cspdarknet_pafpn_backbone": NANO,
}
STRIDES = {
    "build_swin_backbone": {"res2": 4, "res3": 8, "res4": 16, "res5": 32},
    "build_swin_fpn_backbone": {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64},
    "build_vit_backbone": {"last_feat": 16},
    "build_vit_fpn_backbone": {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64},
    "build_cspdarknet_backbone": {"res2": 4, "res3": 8, "res4": 16, "res5": 32},
    "build_cspdarknet_pafpn_backbone": {"p3": 8, "p4": 16, "p5": 32},
}


def build(name, *keys):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.merge_from_list([*KEYS[name], *keys])
    return build_backbone(cfg)


def images(height, width, number=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, 3, height, width, generator=generator)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(("number", "height", "width"), [(2, 64, 96), (1, 96, 32)])
def test_outputs(name, number, height, width):
    backbone = build(name).eval()
    with torch.no_grad():
        outputs = backbone(images(height, width, number))
    shapes = backbone.output_shape()
    assert {level: shape.stride for level, shape in shapes.items()} == STRIDES[name]
    assert list(outputs) == list(shapes)
    for level, feature in outputs.items():
        stride = STRIDES[name][level]
        # The last level above a pyramid is pooled, and rounds up.
        sides = (-(-height // stride), -(-width // stride))
        assert feature.shape == (number, shapes[level].channels, *sides)
        assert feature.isfinite().all()


@pytest.mark.parametrize("name", ["build_swin_backbone", "build_cspdarknet_backbone"])
def test_images_are_padded_to_what_the_backbone_divides(name):
    """An odd size works too; AnomalyDistiller and the detectors pad to size_divisibility."""
    backbone = build(name).eval()
    assert backbone.size_divisibility == 32
    with torch.no_grad():
        outputs = backbone(images(33, 71))
    assert outputs["res5"].shape[-2:] == (2, 3)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (9, 5), (24, 40)])
def test_a_swin_s_windows_are_padded(height, width):
    """Images smaller than a window of 7 cells of 4 pixels, and odd ones."""
    backbone = build("build_swin_backbone").eval()
    with torch.no_grad():
        outputs = backbone(images(height, width))
    for name, feature in outputs.items():
        stride = STRIDES["build_swin_backbone"][name]
        assert feature.shape[-2:] == (-(-height // stride), -(-width // stride))
        assert feature.isfinite().all()


def modules_of(backbone, name):
    bottom_up = getattr(backbone, "bottom_up", getattr(backbone, "net", backbone))
    if "swin" in name:
        stages = [[bottom_up.patch_embed]]
        norms = [bottom_up.norm0, bottom_up.norm1, bottom_up.norm2, bottom_up.norm3]
        return stages + [list(pair) for pair in zip(bottom_up.layers, norms, strict=True)]
    if "vit" in name:
        blocks = list(bottom_up.blocks)
        return [[bottom_up.patch_embed], *(blocks[start : start + 3] for start in (0, 3, 6, 9))]
    return [[getattr(bottom_up, stage)] for stage in ("stem", "res2", "res3", "res4", "res5")]


@pytest.mark.parametrize("freeze_at", range(6))
@pytest.mark.parametrize("name", KEYS)
def test_frozen_stages_stay_as_they_are(name, freeze_at):
    """In mode, gradients and statistics, and gradients reach everything else."""
    backbone = build(name, "MODEL.BACKBONE.FREEZE_AT", freeze_at).eval().train()
    stages = modules_of(backbone, name)
    frozen = {
        parameter
        for stage in stages[:freeze_at]
        for module in stage
        for parameter in module.parameters()
    }
    if "vit" in name and freeze_at:
        frozen.add(getattr(backbone, "net", backbone).pos_embed)
    before = copy.deepcopy(backbone.state_dict())
    outputs = backbone(images(64, 96, 2))
    if freeze_at < 5 or len(list(backbone.parameters())) > len(frozen):
        sum((feature**2).sum() for feature in outputs.values()).backward()
    for path, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (parameter not in frozen), path
        assert (parameter.grad is None) == (parameter in frozen), path
        if parameter not in frozen:
            assert parameter.grad.isfinite().all(), path
    for number, stage in enumerate(stages):
        for module in stage:
            assert all(part.training == (number >= freeze_at) for part in module.modules())
    moved = {
        path
        for path, value in backbone.state_dict().items()
        if not torch.equal(value, before[path])
    }
    batch_norms = {
        f"{path}.running_mean"
        for path, module in backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert {path for path in moved if path.endswith("running_mean")} == batch_norms
    assert bool(batch_norms) == ("pafpn" in name or ("csp" in name and freeze_at < 5))


@pytest.mark.parametrize("name", ["build_swin_backbone", "build_vit_backbone"])
@pytest.mark.parametrize("freeze_at", [0, 2])
def test_checkpointing_changes_memory_only(name, freeze_at):
    key = "AGSSP.SWIN" if "swin" in name else "AGSSP.VIT"
    settings = [f"{key}.DROP_PATH_RATE", 0.0, "MODEL.BACKBONE.FREEZE_AT", freeze_at]
    plain, checkpointed = (
        build(name, *settings, f"{key}.USE_CHECKPOINT", use).train() for use in (False, True)
    )
    checkpointed.load_state_dict(plain.state_dict())
    for backbone in (plain, checkpointed):
        sum((feature**2).sum() for feature in backbone(images(32, 64)).values()).backward()
    for (path, expected), (_, parameter) in zip(
        plain.named_parameters(), checkpointed.named_parameters(), strict=True
    ):
        assert (parameter.grad is None) == (expected.grad is None), path
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, msg=path)


def test_a_part_of_swin_s_features():
    size = SwinSize(8, (1, 1, 1, 1), (1, 1, 1, 1))
    backbone = SwinBackbone(size=size, out_features=("res5", "res3"))
    assert list(backbone.output_shape()) == ["res3", "res5"]
    assert list(backbone(images(64, 64))) == ["res3", "res5"]
    assert not hasattr(backbone, "norm0")


def test_a_part_of_cspdarknet_s_features():
    size = CSPDarknetSize(4, (4, 8, 8, 8), (1, 1, 1, 1))
    backbone = CSPDarknet(size=size, out_features=("res3",))
    assert list(backbone(images(64, 64))) == ["res3"]
    assert backbone.size_divisibility == 8
    assert not hasattr(backbone, "res4"), "what is not needed is not built"


def test_a_swin_preset_has_the_published_parameters():
    """27.5 million without the classifier."""
    backbone = SwinBackbone(size=SIZES["tiny"], out_features=("res5",))
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count / 1e6 == pytest.approx(27.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "build_swin_backbone",
            ["AGSSP.SWIN.SIZE", "huge"],
            "SIZE is 'huge'. Choices: nano, tiny",
        ),
        ("build_swin_backbone", ["AGSSP.SWIN.OUT_FEATURES", ("p2",)], r"has \['p2'\]; choices"),
        ("build_swin_backbone", ["AGSSP.SWIN.WINDOW_SIZE", 1], "at least 2 cells, got 1"),
        (
            "build_swin_backbone",
            ["AGSSP.SWIN.DEPTHS", (2, 2)],
            r"for each of res2.*\(2, 2\)",
        ),
        ("build_swin_backbone", ["AGSSP.SWIN.NUM_HEADS", (3, 1, 1, 1)], "do not divide"),
        ("build_swin_backbone", ["AGSSP.SWIN.DROP_PATH_RATE", 1.0], r"in \[0, 1\), got 1.0"),
        ("build_swin_backbone", ["MODEL.BACKBONE.FREEZE_AT", 6], "must be 0 to 5, got 6"),
        (
            "build_swin_fpn_backbone",
            ["AGSSP.SWIN.OUT_FEATURES", ("res5",)],
            "to AGSSP.SWIN.OUT",
        ),
        ("build_vit_backbone", ["AGSSP.VIT.SIZE", "giant"], "SIZE is 'giant'. Choices: tiny"),
        ("build_vit_backbone", ["MODEL.BACKBONE.FREEZE_AT", -1], "must be 0 to 5, got -1"),
        ("build_vit_fpn_backbone", ["AGSSP.VIT.PATCH_SIZE", 14], "PATCH_SIZE 16.*got 14"),
        ("build_vit_fpn_backbone", ["MODEL.META_ARCHITECTURE", "RetinaNet"], "RetinaNet needs p7"),
        ("build_cspdarknet_backbone", ["AGSSP.CSPDARKNET.SIZE", "x"], "Choices: nano, small"),
        ("build_cspdarknet_backbone", ["AGSSP.CSPDARKNET.NORM", "GN"], "NORM is 'GN'. Choices: BN"),
        (
            "build_cspdarknet_backbone",
            ["AGSSP.CSPDARKNET.OUT_FEATURES", ()],
            "has nothing; ",
        ),
        ("build_cspdarknet_backbone", ["MODEL.PIXEL_MEAN", [0.0]], "takes 3 channels, got 1"),
        (
            "build_cspdarknet_pafpn_backbone",
            ["AGSSP.CSPDARKNET.OUT_FEATURES", ("res4", "res5")],
            "PAFPN needs the features res3.*add res3",
        ),
    ],
)
def test_errors_say_the_way_out(name, keys, message):
    with pytest.raises(ValueError, match=message):
        build(name, *keys)


def test_pafpn_on_another_backbone():
    size = SwinSize(8, (1, 1, 1, 1), (1, 1, 1, 1))
    pyramid = PAFPN(bottom_up=SwinBackbone(size=size), out_channels=(8, 16, 24), depth=2)
    outputs = pyramid(images(64, 96))
    assert {level: feature.shape[1] for level, feature in outputs.items()} == {
        "p3": 8,
        "p4": 16,
        "p5": 24,
    }


def test_every_block_of_a_vit_may_see_the_whole_image():
    backbone = ViTBackbone(size=ViTSize(16, 2, 2, ()), window_size=0)
    assert all(block.window_size == 0 for block in backbone.blocks)
    assert backbone(images(32, 48))["last_feat"].shape == (1, 16, 2, 3)
