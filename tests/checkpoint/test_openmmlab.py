"""OpenMMLab backbones, loaded strictly into Detectron2's and compared in what they compute."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet, SwinTransformer, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import nn

from detectron2_agssp.checkpoint.openmmlab import convert_checkpoint, convert_openmmlab
from detectron2_agssp.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("AGSSP_SHARED_GOLDEN", ROOT.parent / "shared" / "golden"))
LEVELS = ["res2", "res3", "res4", "res5"]
ATTENTION = "stages.1.blocks.0.attn.w_msa"
ZERO = torch.zeros(1)
RESNET = dict.fromkeys(["conv1.weight", "layer1.0.conv1.weight"], ZERO)


def make_swin(
    embed_dims=8, depths=(2, 1), num_heads=(1, 2), window_size=2, out_indices=(0, 1)
) -> SwinTransformer:
    """Detectron2's Swin under OpenMMLab's argument names; the defaults fit `mm_swin`."""
    return SwinTransformer(
        embed_dim=embed_dims,
        depths=depths,
        num_heads=num_heads,
        window_size=window_size,
        out_indices=out_indices,
        drop_path_rate=0.0,
    ).eval()


def make_resnet18(width: int, norm: str) -> ResNet:
    stages, in_channels = [], width
    for stride, out_channels in ((1, width), (2, 2 * width), (2, 4 * width), (2, 8 * width)):
        sizes = {"in_channels": in_channels, "out_channels": out_channels}
        sizes["stride_per_block"] = [stride, 1]
        stages.append(ResNet.make_stage(BasicBlock, 2, **sizes, norm=norm))
        in_channels = out_channels
    return ResNet(BasicStem(out_channels=width, norm=norm), stages, out_features=LEVELS).eval()


def make_resnet50(stride_in_1x1: bool) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = stride_in_1x1
    cfg.MODEL.RESNETS.OUT_FEATURES = LEVELS
    return build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


def mm_swin() -> dict[str, torch.Tensor]:
    """A Swin of 2 + 1 blocks, 1 and 2 heads and 2x2 windows, name by name as mmdet saves it."""
    shapes = {"patch_embed.projection.weight": (8, 3, 4, 4), "patch_embed.projection.bias": (8,)}
    shapes |= {"stages.0.downsample.reduction.weight": (16, 32)}
    norms = {"patch_embed.norm": 8, "stages.0.downsample.norm": 32, "norm0": 8, "norm1": 16}
    linears = {}
    for stage, block in ((0, 0), (0, 1), (1, 0)):
        prefix, width = f"stages.{stage}.blocks.{block}", 8 * 2**stage
        norms |= {f"{prefix}.norm1": width, f"{prefix}.norm2": width}
        linears |= {
            f"{prefix}.attn.w_msa.qkv": (3 * width, width),
            f"{prefix}.attn.w_msa.proj": (width, width),
            f"{prefix}.ffn.layers.0.0": (4 * width, width),
            f"{prefix}.ffn.layers.1": (width, 4 * width),
        }
        shapes[f"{prefix}.attn.w_msa.relative_position_bias_table"] = (9, stage + 1)
    for name, width in norms.items():
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    for name, (outputs, inputs) in linears.items():
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    random = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}

    corner = torch.tensor([0, 1, 3, 4])  # 3 * y + x
    index = corner[:, None] + corner.flip(0)[None, :]
    tables = [name for name in state if name.endswith("bias_table")]
    return state | {name.replace("bias_table", "index"): index.clone() for name in tables}


def test_simmim_s_mask_token_and_decoder_are_left_out():
    state = prefixed("backbone.", mm_swin())
    extra = {"backbone.mask_token": torch.zeros(1, 1, 8), "neck.decoder.0.weight": ZERO}
    conversion = convert_checkpoint({**state, **extra})
    assert conversion.left_out == list(extra)
    assert len(conversion.weights) == len(state)


def prefixed(prefix: str, state: dict) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


@pytest.fixture(scope="module")
def golden():
    path = GOLDEN / "mm_weights_dev.npz"
    if not path.exists():
        pytest.skip(f"no golden numbers at {path} (set AGSSP_SHARED_GOLDEN)")
    return np.load(path)


def golden_state(golden, case: str) -> dict[str, torch.Tensor]:
    prefix = f"{case}/weights/"
    keys = [key.removeprefix(prefix) for key in golden.files if key.startswith(prefix)]
    return {key: torch.from_numpy(golden[prefix + key]) for key in keys}


@torch.no_grad()
def assert_golden_outputs(backbone, golden, case: str, levels) -> None:
    images = golden[f"{case}/images" if f"{case}/images" in golden.files else "images"]
    outputs = backbone(torch.from_numpy(images))
    for i, level in enumerate(levels):
        np.testing.assert_allclose(outputs[level], golden[f"{case}/out{i}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["mmdet_swin", "mmpretrain_swin"])
def test_swin_reaches_the_golden_outputs(golden, case):
    config = json.loads(str(golden["config"]))["swin" if case == "mmdet_swin" else case]
    config.pop("img_size", None)
    backbone = make_swin(**config, out_indices=(0, 1, 2, 3))
    backbone.load_state_dict(convert_openmmlab(golden_state(golden, case)), strict=True)
    assert_golden_outputs(backbone, golden, case, ("p0", "p1", "p2", "p3"))


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_basic_resnet_reaches_the_golden_outputs(golden, norm):
    backbone = make_resnet18(json.loads(str(golden["config"]))["resnet"]["base_channels"], norm)
    weights = convert_openmmlab(golden_state(golden, "mmpretrain_resnet"))
    backbone.load_state_dict(weights, strict=True)
    assert_golden_outputs(backbone, golden, "mmpretrain_resnet", LEVELS)


@torch.no_grad()
def test_bottleneck_resnet_strides_in_the_3x3_convolution():
    """torchvision's ResNet-50 has mmdet's names and, as ``style="pytorch"``, its strides."""
    torch.manual_seed(0)
    source = torchvision.models.resnet50(weights=None).eval()
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.0)
    source.fc = nn.Identity()  # OpenMMLab keeps the classifier in the head
    weights = convert_openmmlab(prefixed("backbone.", source.state_dict()))

    images = torch.randn(1, 3, 64, 64)
    expected = nn.Sequential(*list(source.children())[:-2])(images)  # up to pooling
    outputs = {}
    for stride_in_1x1 in (False, True):
        backbone = make_resnet50(stride_in_1x1)
        backbone.load_state_dict(weights, strict=True)
        outputs[stride_in_1x1] = backbone(images)["res5"]
    torch.testing.assert_close(outputs[False], expected, rtol=1e-4, atol=1e-4)
    assert (outputs[True] - expected).abs().max() > 1e-2


def test_patch_merging_computes_what_unfold_merging_computes():
    state = mm_swin()
    names = ("norm.weight", "norm.bias", "reduction.weight")
    norm_weight, norm_bias, reduction = (state[f"stages.0.downsample.{name}"] for name in names)
    feature = torch.randn(2, 8, 6, 10, generator=torch.Generator().manual_seed(1))
    neighbours = nn.functional.unfold(feature, kernel_size=2, stride=2).transpose(1, 2)
    normed = nn.functional.layer_norm(neighbours, (32,), norm_weight, norm_bias)
    expected = normed @ reduction.T

    backbone = make_swin()
    backbone.load_state_dict(convert_openmmlab(state), strict=True)
    merged = backbone.layers[0].downsample(feature.flatten(2).transpose(1, 2), 6, 10)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: prefixed("backbone.", state),
        lambda state: prefixed("module.backbone.", state),
        lambda state: {"meta": {"epoch": 3}, "state_dict": state},
        lambda state: {"state_dict": {"state_dict": prefixed("backbone.", state)}},
        # mmengine puts the averaged weights into "state_dict", and the raw ones beside them.
        lambda state: {"state_dict": state, "ema_state_dict": dict.fromkeys(state, ZERO)},
    ],
)
def test_prefixes_and_nesting_make_no_difference(wrap):
    state = mm_swin()
    expected, found = convert_openmmlab(state), convert_openmmlab(wrap(state))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_what_is_not_the_backbone_is_left_out_and_reported(prefix):
    state = prefixed(prefix, mm_swin())
    others = ["neck.convs.0.weight", "head.fc.weight", "data_preprocessor.mean"]
    mask = f"{prefix}stages.0.blocks.1.attn.attn_mask"
    conversion = convert_checkpoint(state | dict.fromkeys([*others, mask], ZERO))
    assert conversion.backbone == "swin"
    assert conversion.left_out == [*others, mask]
    assert conversion.weights.keys() == convert_openmmlab(state).keys()


def test_single_norm_of_early_mmcls_is_the_last_output_norm():
    state = mm_swin()
    for name in ("weight", "bias"):
        del state[f"norm0.{name}"]
        state[f"norm.{name}"] = state.pop(f"norm1.{name}")
    weights = convert_openmmlab(state)
    make_swin(out_indices=(1,)).load_state_dict(weights, strict=True)
    assert torch.equal(weights["norm1.weight"], state["norm.weight"])


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (ZERO, "got one Tensor"),
        ({}, "none"),
        ({"stages.0.0.depthwise_conv.weight": ZERO}, "stages.0.0.depthwise_conv.weight"),
        ({"teacher.backbone.conv1.weight": ZERO}, "teacher.backbone.conv1.weight"),
        ({f"key{i}": ZERO for i in range(12)}, "key9 and 2 more"),
        (RESNET | {"stem.0.weight": ZERO}, "stem.0.weight"),
        (RESNET | {"layer2.0.downsample.2.weight": ZERO}, "layer2.0.downsample.2.weight"),
        (RESNET | {"layer3.1.conv2.conv_offset.bias": ZERO}, "layer3.1.conv2.conv_offset.bias"),
        (mm_swin() | {f"{ATTENTION}.logit_scale": ZERO}, f"{ATTENTION}.logit_scale"),
        (mm_swin() | {"absolute_pos_embed": ZERO}, "absolute_pos_embed"),
    ],
)
def test_what_cannot_be_converted_is_named(state, named):
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        convert_openmmlab(state)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("norm0.weight", lambda t: t.repeat(2), "norm0.weight has 16 channels"),
        ("stages.0.downsample.norm.weight", lambda t: t.repeat(2), "norm.weight has 64 channels"),
        (f"{ATTENTION}.relative_position_index", lambda t: t.T, "relative positions"),
    ],
)
def test_swin_tensors_of_another_meaning_are_refused(key, change, message):
    state = mm_swin()
    state[key] = change(state[key])
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        convert_openmmlab(state)


@pytest.fixture(scope="module")
def convert():
    """The command line, in this process."""
    return lambda arguments: main(["convert", *arguments])


def test_cli_writes_a_file_that_detectron2_loads(convert, tmp_path, capsys):
    state = prefixed("backbone.", mm_swin())
    source, target = tmp_path / "mm.pth", tmp_path / "d2.pth"
    left_out = {"head.fc.weight": ZERO, "backbone.stages.0.blocks.1.attn.attn_mask": ZERO}
    torch.save({"state_dict": state | left_out, "optimizer": {"state": {}}}, source)
    convert([str(source), str(target)])
    printed = capsys.readouterr().out
    assert f"{len(state)} tensors (swin)\nLeft out: 1 head, 1 attn_mask, 1 optimizer\n" in printed
    assert "Missing: layers.2, layers.3, norm2, norm3" in printed

    written = torch.load(target, weights_only=True)
    expected = convert_openmmlab(state)
    assert written.pop("model").keys() == expected.keys()
    assert written == {
        "matching_heuristics": True,
        "__author__": "detectron2_agssp",
        "agssp": {
            "pixel_mean": [123.675, 116.28, 103.53],
            "pixel_std": [58.395, 57.12, 57.375],
            "format": "RGB",
            "backbone": "swin",
            "settings": {},
        },
    }

    detector = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": make_swin()})})
    DetectionCheckpointer(detector).load(str(target))
    loaded = detector["backbone"]["bottom_up"].state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_cli_takes_the_statistics_of_a_bgr_model_and_has_no_default(convert, tmp_path, capsys):
    source, target = tmp_path / "mm.pth", tmp_path / "d2.pth"
    torch.save(mm_swin(), source)
    arguments = [str(source), str(target), "--format", "BGR", "--pixel-mean", "1", "2", "3"]
    with pytest.raises(SystemExit, match="2"):
        convert(arguments)
    assert "--format BGR needs --pixel-mean and --pixel-std" in capsys.readouterr().err
    convert([*arguments, "--pixel-std", "4", "5", "6"])
    agssp = torch.load(target, weights_only=True)["agssp"]
    assert (agssp["pixel_mean"], agssp["pixel_std"]) == ([1, 2, 3], [4, 5, 6])
    assert agssp["format"] == "BGR"


def test_cli_refuses_what_it_cannot_read_safely_or_does_not_know(convert, tmp_path, capsys):
    source, target = tmp_path / "mm.pth", tmp_path / "d2.pth"
    torch.save({"state_dict": mm_swin(), "message_hub": argparse.Namespace()}, source)
    with pytest.raises(SystemExit, match="2"):
        convert([str(source), str(target)])
    assert "re-save its state dict" in capsys.readouterr().err
    torch.save({"foo.weight": ZERO}, source)
    with pytest.raises(SystemExit, match="2"):
        convert([str(source), str(target)])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {source}: ")
    assert "foo.weight" in error
    assert not target.exists()
