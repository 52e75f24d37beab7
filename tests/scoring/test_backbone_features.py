"""Patch features of Detectron2's own backbones, with a detector's weights."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model

from detectron2_agssp.checkpoint import BackboneCoverageError
from detectron2_agssp.maps import generate_anomaly_maps
from detectron2_agssp.scoring import build_anomaly_scorer
from detectron2_agssp.scoring.backbone_features import BackbonePatchFeatures, load_backbone
from detectron2_agssp.scoring.features import build_patch_features
from tests.scoring.tiny_features import make_images
from tests.tiny_models import SMALL_R50, AverageBackbone, copy_of, randomize

BACKBONES = {
    "build_resnet_backbone": ("res4", "res3"),
    "build_resnet_fpn_backbone": ("p3", "p4"),
}


def make_cfg(backbone="build_resnet_backbone", cfg=None, **settings):
    """``cfg``, or the defaults, with a small backbone of Detectron2's."""
    cfg = cfg or get_cfg()
    features = ["res2", "res3", "res4", "res5"]
    model = {**SMALL_R50, "MODEL.BACKBONE.NAME": backbone, "MODEL.RESNETS.OUT_FEATURES": features}
    if "fpn" in backbone:
        model["MODEL.FPN.IN_FEATURES"] = features
    model["AGSSP.SCORER.FEATURES"] = "detectron2"
    model["AGSSP.SCORER.IN_FEATURES"] = BACKBONES[backbone]
    model["AGSSP.SCORER.DEVICE"] = "cpu"
    for key, value in {**model, **settings}.items():
        cfg.merge_from_list([key, value])
    return cfg


@pytest.fixture(scope="module")
def images():
    return make_images(2, 64, 96)


@pytest.mark.parametrize("pixel_format", ["BGR", "RGB"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_against_the_backbone_by_hand(images, backbone, pixel_format):
    """Channel order, mean and deviation are those of the config; levels come finest first."""
    mean, std = [103.5, 116.3, 123.7], [57.4, 57.1, 58.4]
    cfg = make_cfg(backbone)
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = pixel_format, mean, std
    cfg.AGSSP.SCORER.CENTER, cfg.AGSSP.SCORER.POOL_SIZE = False, 1
    features = build_patch_features(cfg)
    assert isinstance(features, BackbonePatchFeatures)
    channels = images.unbind(dim=1)
    ordered = channels if pixel_format == "RGB" else channels[::-1]
    pixels = [(x - m) / s for x, m, s in zip(ordered, mean, std, strict=True)]
    with torch.no_grad():
        outputs = features.backbone(torch.stack(pixels, dim=1))
    fine, coarse = (outputs[name] for name in sorted(BACKBONES[backbone]))
    levels = features.levels(images)
    torch.testing.assert_close(levels, [fine, coarse])
    expected = torch.cat(
        [
            F.normalize(fine, dim=1),
            F.interpolate(F.normalize(coarse, dim=1), (8, 12), mode="bilinear"),
        ],
        dim=1,
    )
    result = features(images)
    assert result.shape == (2, features.num_channels, 8, 12)
    assert (features.stride, features.size_divisor) == (8, 32 if "fpn" in backbone else 16)
    torch.testing.assert_close(result, expected)


def test_all_levels_without_in_features(images):
    features = build_patch_features(make_cfg(**{"AGSSP.SCORER.IN_FEATURES": ()}))
    assert features.names == ["res2", "res3", "res4", "res5"]
    assert features(images).shape[-2:] == (16, 24)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision(images, precision):
    exact = build_patch_features(make_cfg())
    torch.manual_seed(0)
    cfg = make_cfg(**{"AGSSP.SCORER.PRECISION": precision})
    rounded = build_patch_features(cfg)
    rounded.backbone.load_state_dict(exact.backbone.state_dict())
    result = rounded(images)
    assert result.dtype == torch.float32
    difference = (result - exact(images)).norm() / exact(images).norm()
    assert 0 < difference < 0.2


def test_frozen_in_every_mode(images):
    features = build_patch_features(make_cfg()).train()
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not any(module.training for module in features.modules())
    before = copy_of(features)
    assert not features(images).requires_grad
    torch.testing.assert_close(dict(features.state_dict()), before, rtol=0, atol=0)


def test_sides_that_an_fpn_cannot_take():
    features = build_patch_features(make_cfg("build_resnet_fpn_backbone"))
    message = r"FPN needs images whose sides are multiples of 32, got \(64, 80\).*IMAGE_SIZE"
    with pytest.raises(ValueError, match=message):
        features(make_images(1, 64, 80))
    assert build_patch_features(make_cfg())(make_images(1, 50, 70)).shape[-2:] == (7, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"AGSSP.SCORER.IN_FEATURES": ("res3", "p3")},
            r"IN_FEATURES has \['p3'\].*Choices: res2, res3, res4, res5\.",
        ),
        ({"AGSSP.SCORER.FEATURES": "torch"}, "'torch'. Choices: timm, detectron2, clip"),
        ({"AGSSP.SCORER.PRECISION": "int8"}, "'int8'. Choices: fp32, bf16, fp16"),
        ({"INPUT.FORMAT": "YUV-BT.601"}, "INPUT.FORMAT 'YUV-BT.601'"),
        ({"MODEL.PIXEL_MEAN": [100.0], "MODEL.PIXEL_STD": [1.0]}, r"PIXEL_MEAN \[100.0\]"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        build_patch_features(make_cfg(**settings))


# ---- weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    """A detector with an FPN, every tensor with numbers of its own."""
    rpn = {
        "MODEL.META_ARCHITECTURE": "ProposalNetwork",
        "MODEL.RPN.IN_FEATURES": ["p2", "p3"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64]],
    }
    model = build_model(make_cfg("build_resnet_fpn_backbone", **rpn))
    randomize(model)
    return model


@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_of_a_detector(detector, tmp_path, wrapped):
    """As its trainer saves them, or as a plain state dict."""
    weights = detector.state_dict()
    torch.save({"model": weights, "iteration": 7} if wrapped else weights, tmp_path / "model.pth")
    cfg = make_cfg("build_resnet_fpn_backbone", **{"MODEL.WEIGHTS": str(tmp_path / "model.pth")})
    expected = detector.backbone.state_dict()
    torch.testing.assert_close(dict(load_backbone(cfg).state_dict()), dict(expected))
    torch.testing.assert_close(
        dict(build_patch_features(cfg).backbone.state_dict()), dict(expected)
    )


def test_weights_of_a_bare_backbone(detector, tmp_path):
    """Under its own names it is loaded by Detectron2's matching, and refused without."""
    bare = detector.backbone.bottom_up.state_dict()
    torch.save({"model": bare, "matching_heuristics": True}, tmp_path / "matched.pth")
    cfg = make_cfg(**{"MODEL.WEIGHTS": str(tmp_path / "matched.pth")})
    torch.testing.assert_close(dict(load_backbone(cfg).state_dict()), dict(bare))
    torch.save(bare, tmp_path / "bare.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "bare.pth")
    with pytest.raises(BackboneCoverageError, match=r"(?s)cover 0%.*Missing:.*backbone\.stem"):
        load_backbone(cfg)
    cfg.MODEL.WEIGHTS += "?matching_heuristics=True"
    torch.testing.assert_close(dict(load_backbone(cfg).state_dict()), dict(bare))


def test_weights_that_leave_layers_random(detector, tmp_path):
    """An ImageNet file has no FPN: over 90 % are covered, and every feature is random."""
    bare = detector.backbone.bottom_up.state_dict()
    torch.save({"model": bare, "matching_heuristics": True}, tmp_path / "imagenet.pth")
    cfg = make_cfg("build_resnet_fpn_backbone", **{"MODEL.WEIGHTS": str(tmp_path / "imagenet.pth")})
    with pytest.raises(
        BackboneCoverageError,
        match=r"(?s)leave 8 tensors .*random.*fpn_lateral2",
    ):
        load_backbone(cfg)


def test_weights_without_what_is_constant(detector, tmp_path):
    """Biases that start as zero may be missing."""
    weights = {
        name: tensor
        for name, tensor in detector.state_dict().items()
        if not ("fpn_" in name and name.endswith("bias"))
    }
    torch.save(weights, tmp_path / "model.pth")
    cfg = make_cfg("build_resnet_fpn_backbone", **{"MODEL.WEIGHTS": str(tmp_path / "model.pth")})
    assert load_backbone(cfg).fpn_output3.bias.abs().max() == 0


def test_weights_of_another_size(detector, tmp_path):
    torch.save(detector.state_dict(), tmp_path / "model.pth")
    cfg = make_cfg(
        "build_resnet_fpn_backbone",
        **{"MODEL.WEIGHTS": str(tmp_path / "model.pth"), "MODEL.RESNETS.RES2_OUT_CHANNELS": 32},
    )
    with pytest.raises(BackboneCoverageError, match="Use weights of the same backbone"):
        load_backbone(cfg)


def test_missing_and_no_weights(caplog):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'missing.pth'"):
        load_backbone(make_cfg(**{"MODEL.WEIGHTS": "missing.pth"}))
    assert "random" not in caplog.text
    load_backbone(make_cfg())
    assert "MODEL.WEIGHTS is empty: the scorer's build_resnet_backbone is random" in caplog.text


# ---- scorers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mahalanobis", "memory", "mutual"])
def test_every_scorer_takes_them(tiny_cfg, image_folder, tmp_path, detector, name):
    torch.save(detector.state_dict(), tmp_path / "model.pth")
    cfg = make_cfg(
        "build_resnet_fpn_backbone",
        tiny_cfg,
        **{
            "MODEL.WEIGHTS": str(tmp_path / "model.pth"),
            "AGSSP.SCORER.NAME": name,
            "AGSSP.SCORER.NORMAL_SAMPLE": 2,
        },
    )
    scorer = build_anomaly_scorer(cfg)
    assert (scorer.stride, scorer.size_divisor) == (8, 32)
    summary = generate_anomaly_maps(cfg, image_folder, tmp_path / "maps", progress=False)
    assert (summary.scored, summary.skipped) == (6, 0)


@pytest.mark.parametrize(
    ("key", "value"), [("INPUT.FORMAT", "RGB"), ("MODEL.PIXEL_STD", [57.0, 57.0, 58.0])]
)
def test_other_pixels_are_refused(tiny_cfg, image_folder, tmp_path, key, value):
    """A folder is not completed with other statistics, which its weights do not show."""
    cfg = make_cfg(cfg=tiny_cfg)
    generate_anomaly_maps(cfg, image_folder, tmp_path / "maps", progress=False)
    assert generate_anomaly_maps(cfg, image_folder, tmp_path / "maps", progress=False).kept == 6
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=r"not those|other settings"):
        generate_anomaly_maps(cfg, image_folder, tmp_path / "maps", progress=False)


def test_a_backbone_of_ones_own(images):
    """Any module with Detectron2's interface."""
    torch.manual_seed(0)
    backbone = AverageBackbone({"fine": 4, "coarse": 16})
    features = BackbonePatchFeatures(
        backbone=backbone, pixel_mean=(0.0,) * 3, pixel_std=(255.0,) * 3, pixel_format="RGB"
    )
    assert (features.stride, features.size_divisor, features.level_channels) == (4, 16, (4, 4))
    assert features(images).shape == (2, 8, 16, 24)


def test_build_backbone_is_detectron2s():
    torch.manual_seed(0)
    expected = build_backbone(make_cfg())
    torch.manual_seed(0)
    torch.testing.assert_close(copy_of(load_backbone(make_cfg())), copy_of(expected))
