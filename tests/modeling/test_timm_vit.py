"""timm's plain Vision Transformers: the last block, or several, in scorers and AGBP."""

import pytest
import timm
import torch
from detectron2.utils.events import EventStorage

from detectron2_agssp.checkpoint import export_backbone, load_weights
from detectron2_agssp.modeling import TimmBackbone
from detectron2_agssp.scoring import TimmPatchFeatures, build_anomaly_scorer
from tests.tiny_models import SMALL, make_cfg, make_model, map_inputs

# Patches of 16 pixels; in the second, a class token and registers stand before them, 14 pixels.
VIT, DINOV2, DINOV3 = (
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
)
PATCHES = {VIT: 16, DINOV2: 14, DINOV3: 16}
IN_AGBP = {
    **SMALL,
    "VIS_PERIOD": 0,
    "AGSSP.TIMM.MODEL": VIT,
    "AGSSP.TIMM.WEIGHTS": "",
    "AGSSP.TIMM.NORM": "",
    "AGSSP.TIMM.OUT_FEATURES": ("last_feat",),
    "AGSSP.DISTILL.IN_FEATURES": ("last_feat",),
    "AGSSP.DISTILL.LOSS_WEIGHTS": (1.0,),
}


def known(model: str) -> str:
    if not timm.is_model(model):
        pytest.skip(f"timm {timm.__version__} has no {model}")
    return model


@pytest.mark.parametrize("model", PATCHES)
@torch.no_grad()
def test_the_last_blocks_tokens_as_a_map(model):
    """On images that are not square, and of another size than the position table."""
    patch = PATCHES[known(model)]
    backbone = TimmBackbone(model=model, norm="", out_features=("last_feat",)).eval()
    (shape,) = backbone.output_shape().values()
    assert (shape.stride, backbone.size_divisibility) == (patch, patch)
    images = torch.randn(2, 3, 3 * patch, 5 * patch)
    feature = backbone(images)["last_feat"]
    assert feature.shape == (2, shape.channels, 3, 5)
    net = backbone.net.model
    plain = timm.create_model(model, dynamic_img_size=True).eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    prefix = plain.num_prefix_tokens
    assert prefix == {VIT: 1, DINOV2: 5, DINOV3: 5}[model]
    taken = []
    plain.blocks[-1].register_forward_hook(lambda module, inputs, output: taken.append(output))
    plain.forward_features(images)
    tokens = taken[0][:, prefix:].mT.unflatten(2, (3, 5))
    torch.testing.assert_close(feature, tokens, rtol=1e-4, atol=1e-4)


def test_in_agbp(tmp_path):
    """Padded to whole patches, in sizes that are none; then exported and loaded again."""
    model = make_model("agbp/lite0.yaml", IN_AGBP, {"MODEL.BACKBONE.FREEZE_AT": 3}).train()
    with EventStorage():
        (loss,) = model(map_inputs((50, 70), (33, 64))).values()
    loss.backward()
    assert loss.isfinite()
    trained = {
        int(name.split(".blocks.")[1].split(".")[0]) if ".blocks." in name else name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == set(range(6, 12)), "patches and positions and two quarters are frozen"
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    energies = model.eval()(map_inputs((50, 70)))[0]["energies"]
    assert energies["last_feat"].shape == (4, 5)
    export_backbone(model, tmp_path / "backbone.pth")
    other = make_model("agbp/lite0.yaml", IN_AGBP, seed=1)
    assert load_weights(other, tmp_path / "backbone.pth", complete=True)["backbone"].share == 1
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "features",
    [
        {"AGSSP.SCORER.MODEL": VIT, "AGSSP.SCORER.STRIDES": (16,)},
        {**IN_AGBP, "AGSSP.SCORER.FEATURES": "detectron2"},
    ],
    ids=["timm", "detectron2"],
)
def test_in_a_scorer(features):
    scorer = {"DEVICE": "cpu", "WEIGHTS": "", "IMAGE_SIZE": 64}
    scorer = {f"AGSSP.SCORER.{key}": value for key, value in scorer.items()}
    scorer = build_anomaly_scorer(make_cfg("agbp/lite0.yaml", features, scorer))
    assert (scorer.stride, scorer.size_divisor) == (16, 16)
    images = 255 * torch.rand(3, 3, 48, 80)
    scorer.fit([images])
    assert scorer(images).maps.shape == (3, 3, 5)


def test_a_file_of_the_plain_model(tmp_path):
    plain = timm.create_model(VIT)
    torch.save(plain.state_dict(), tmp_path / "vit.pth")
    features = TimmPatchFeatures(model=VIT, weights=str(tmp_path / "vit.pth"), strides=(16,))
    expected = plain.state_dict()["blocks.11.mlp.fc2.weight"]
    assert torch.equal(features.net.model.blocks[-1].mlp.fc2.weight, expected)


def test_a_file_gives_the_norm_too(tmp_path):
    plain = timm.create_model(VIT)
    torch.nn.init.normal_(plain.norm.weight)
    torch.save(plain.state_dict(), tmp_path / "vit.pth")
    features = TimmPatchFeatures(model=VIT, weights=str(tmp_path / "vit.pth"), blocks=(3, 1))
    assert torch.equal(features.net.model.norm.weight, plain.norm.weight)
    assert len(features.net.model.blocks) == 3, "no more than are used"


@pytest.mark.parametrize("model", PATCHES)
@torch.no_grad()
def test_blocks_are_levels(model):
    """After the final norm; on images that are not square, and of another size than the position
    table; tokens that are no patches are dropped."""
    patch = PATCHES[known(model)]
    torch.manual_seed(0)
    features = TimmPatchFeatures(model=model, blocks=(4, 1), pool_size=1, center=False)
    assert (features.stride, features.size_divisor) == (patch, patch)
    images = 255 * torch.rand(2, 3, 3 * patch, 5 * patch)
    levels = features.levels(images)
    assert [level.shape for level in levels] == [(2, c, 3, 5) for c in features.level_channels]
    assert features.level_channels == ((192, 192) if model == VIT else (384, 384))
    plain = timm.create_model(model, dynamic_img_size=True).eval()
    plain.load_state_dict(features.net.model.state_dict(), strict=False)
    taken = {}
    for number in (1, 4):
        plain.blocks[number - 1].register_forward_hook(
            lambda module, inputs, output, number=number: taken.update({number: output})
        )
    plain.forward_features((images - features.mean) / features.std)
    for number, level in zip((1, 4), levels, strict=True):
        tokens = plain.norm(taken[number])[:, plain.num_prefix_tokens :]
        expected = tokens.mT.unflatten(2, (3, 5))
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "model"),
    [("mahalanobis", DINOV2), ("memory", DINOV3), ("mutual", DINOV2), ("mutual", DINOV3)],
)
def test_scorers_on_blocks(name, model):
    """Maps of an image are the same in any batch, and find the odd one."""
    patch = PATCHES[known(model)]
    settings = {"NAME": name, "MODEL": model, "BLOCKS": (1, 3), "DEVICE": "cpu", "WEIGHTS": ""}
    settings |= {"IMAGE_SIZE": 4 * patch}
    settings = {f"AGSSP.SCORER.{key}": value for key, value in settings.items()}
    scorer = build_anomaly_scorer(make_cfg("maps/mahalanobis.yaml", settings))
    assert (scorer.stride, scorer.size_divisor) == (patch, patch)
    generator = torch.Generator().manual_seed(0)
    images = 120 + 10 * torch.rand(5, 3, 4 * patch, 6 * patch, generator=generator)
    images[0, :, patch : 2 * patch, 3 * patch : 4 * patch] = 255 * torch.rand(
        3, patch, patch, generator=generator
    )
    scorer.fit([images[1:]])
    together = scorer(images)
    assert together.maps.shape == (5, 4, 6)
    alone = torch.cat([scorer(image[None]).maps for image in images])
    torch.testing.assert_close(alone, together.maps, rtol=1e-3, atol=1e-4)
    again = build_anomaly_scorer(make_cfg("maps/mahalanobis.yaml", settings))
    again.load_learned_state(scorer.learned_state())
    assert torch.equal(again(images).maps, together.maps)
    assert together.scores.argmax() == 0
    row, column = divmod(int(together.maps[0].argmax()), 6)
    assert abs(row - 1) <= 1
    assert abs(column - 3) <= 1


@pytest.mark.parametrize(
    ("model", "blocks", "message"),
    [
        (VIT, (0, 4), r"BLOCKS is \(0, 4\): name blocks of 'vit_tiny.*from 1 to 12, each once"),
        (VIT, (13,), "from 1 to 12"),
        (VIT, (3, 3), "each once"),
        ("resnet10t", (3,), r"'resnet10t' has levels of several strides.*SCORER\.STRIDES"),
    ],
)
def test_blocks_that_it_has_not(model, blocks, message):
    with pytest.raises(ValueError, match=message):
        TimmPatchFeatures(model=model, blocks=blocks)


def test_sides_that_are_no_whole_number_of_patches():
    message = r"patches of 16 pixels.*multiples of that, got \(48, 50\): set AGSSP\.SCORER\.IMAGE_"
    with pytest.raises(ValueError, match=message):
        TimmPatchFeatures(model=VIT, strides=(16,))(torch.rand(1, 3, 48, 50))
    with pytest.raises(ValueError, match=message):
        TimmBackbone(model=VIT, norm="", out_features=("last_feat",))(torch.rand(1, 3, 48, 50))


def test_levels_that_it_has_not():
    message = r"strides \[16\], none at 4, 8, 32\. .*plain.*STRIDES to \(16,\).*BLOCKS.*'last"
    with pytest.raises(ValueError, match=message):
        TimmBackbone(model=VIT, norm="")
    with pytest.raises(ValueError, match=r"has \['last_feat'\]; choices: .*or last_feat alone"):
        TimmBackbone(model="resnet18", out_features=("res5", "last_feat"))


def test_the_last_level_of_any_model():
    backbone = TimmBackbone(model="resnet18", out_features=("last_feat",))
    assert backbone(torch.rand(1, 3, 64, 96))["last_feat"].shape == (1, 512, 2, 3)
