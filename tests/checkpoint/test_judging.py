"""Each kind of checkpoint into the right detector and into wrong ones: what is said or raised."""

import logging
import pickle
import re

import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_backbone

from detectron2_agssp.checkpoint import BackboneCoverageError, export_backbone, load_weights
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.io.weight_files import WeightFileError
from tests.tiny_models import R18, SMALL_R50, SMALL_TIMM, copy_of, make_cfg, make_model, randomize

LITE = {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}
FASTER, RETINA = "faster_rcnn_{}_fpn.yaml", "retinanet_{}_fpn.yaml"
# Kind of checkpoint -> config, settings.
KINDS = {
    "agbp lite": ("agbp/lite0.yaml", LITE),
    "agbp R50": ("agbp/R50.yaml", SMALL_R50),
    "agdp lite": ("agdp/" + FASTER.format("lite0"), LITE),
    "agdp R50": ("agdp/" + FASTER.format("R50"), SMALL_R50),
    "tuned lite": ("finetune/" + RETINA.format("lite0"), LITE),
    "tuned R50": ("finetune/" + RETINA.format("R50"), SMALL_R50),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Kind -> file, as this package's trainer writes it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for kind, (config, settings) in KINDS.items():
        model = make_model(config, settings)
        randomize(model.backbone)
        CheckedCheckpointer(model, str(folder)).save(kind.replace(" ", "_"), iteration=1)
    return {kind: str(folder / f"{kind.replace(' ', '_')}.pth") for kind in KINDS}


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return lambda level="": [
        record.getMessage()
        for record in caplog.records
        if level in ("", record.levelname)
        and record.name.startswith(("detectron2_agssp", "fvcore"))
    ]


def load(model, path, checkpointer=DetectionCheckpointer):
    checkpointer(model).load(path)
    return model


@pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, CheckedCheckpointer])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("agbp R50", "agdp/" + FASTER.format("lite0")),
        ("agbp lite", "finetune/" + RETINA.format("R50")),
        ("agdp lite", "finetune/" + FASTER.format("R50")),
        ("agdp R50", "finetune/" + FASTER.format("lite0")),
        ("tuned R50", "agdp/" + RETINA.format("lite0")),
        ("tuned lite", "agbp/R50.yaml"),
    ],
)
def test_another_backbone_raises_and_says_what_the_weights_are_of(
    kind, config, checkpointer, checkpoints
):
    model = make_model(config, LITE if "lite0" in config else SMALL_R50, seed=1)
    before = copy_of(model)
    settings = "AGSSP.TIMM.MODEL: " if "lite" in kind else "MODEL.RESNETS.DEPTH: 50"
    with pytest.raises(BackboneCoverageError, match=rf"(?s)cover 0%.*{settings}.*Missing:\n"):
        load(model, checkpoints[kind], checkpointer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "config", "key"),
    [
        ("agdp lite", "finetune/" + FASTER.format("lite0"), "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("agdp R50", "finetune/" + FASTER.format("R50"), "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("tuned lite", "finetune/" + RETINA.format("lite0"), "MODEL.RETINANET.NUM_CLASSES"),
        ("tuned R50", "finetune/" + RETINA.format("R50"), "MODEL.RETINANET.NUM_CLASSES"),
    ],
)
def test_the_right_detector_with_other_classes_says_so_in_one_line(
    kind, config, key, checkpoints, log
):
    model = make_model(config, LITE if "lite" in kind else SMALL_R50, {key: 4}, seed=1)
    load(model, checkpoints[kind])
    there = 1 if "agdp" in kind else 6
    said = [line for line in log("INFO") if "loaded backbone" in line]
    layer = "head.cls_score" if "tuned" in kind else "roi_heads.box_predictor.cls_score"
    pattern = (
        r"loaded backbone \((\d+) of \1 tensors\), neck \((\d+) of \2 tensors\), heads \(.*\)\. "
        rf"Start afresh, as expected with 4 classes instead of {there}: .*{re.escape(layer)}"
    )
    assert len(said) == 1
    assert re.search(pattern, said[0])
    assert log("WARNING") == []


def test_the_same_detector_and_the_same_classes(checkpoints, log):
    model = make_model(*KINDS["agdp lite"], seed=1)
    load(model, checkpoints["agdp lite"])
    assert len([line for line in log("INFO") if line.endswith("tensors).")]) == 1
    assert log("WARNING") == []


@pytest.mark.parametrize("kind", ["agbp lite", "agbp R50"])
@pytest.mark.parametrize("exported", [True, False])
def test_agbp_s_weights_into_a_detector(kind, exported, checkpoints, log, tmp_path):
    path = checkpoints[kind]
    if exported:
        model = load(make_model(*KINDS[kind]), path)
        path = str(export_backbone(model, tmp_path / "backbone.pth"))
    other = "tuned lite" if "lite" in kind else "tuned R50"
    load(make_model(*KINDS[other], seed=1), path)
    assert "The rest starts afresh, as expected" in log("INFO")[-1]
    assert log("WARNING") == []


WRONG = {
    "width": ({"MODEL.FPN.OUT_CHANNELS": 24}, ["MODEL.FPN.OUT_CHANNELS: 16", "do not fit all"]),
    "anchors": (
        {"MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]]},
        ["MODEL.ANCHOR_GENERATOR.SIZES: [[16.0], [32.0], [64.0], [128.0], [256.0]]"],
    ),
    "order": ({"INPUT.FORMAT": "BGR"}, ['INPUT.FORMAT: "RGB"']),
    "pixels": ({"MODEL.PIXEL_STD": [1.0] * 3}, ["MODEL.PIXEL_STD: [128.0, 128.0, 128.0]"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_same_backbone_in_another_detector_warns_with_values_to_paste(kind, checkpoints, log):
    settings, lines = WRONG[kind]
    load(make_model(*KINDS["agdp lite"], settings, seed=1), checkpoints["agdp lite"])
    warnings = "\n".join(log("WARNING"))
    assert all(line in warnings for line in lines)


def test_another_detector_on_the_same_backbone(checkpoints, log):
    """Of Faster R-CNN, RetinaNet takes the backbone and most of the pyramid."""
    load(make_model(*KINDS["tuned lite"], seed=1), checkpoints["agdp lite"])
    warnings = "\n".join(log("WARNING"))
    assert 'MODEL.META_ARCHITECTURE: "GeneralizedRCNN"' in warnings
    assert re.search(r"random remain: .*heads \(head\.", warnings)


def test_strides_that_no_weight_shows(checkpoints, log):
    settings = {"MODEL.RESNETS.STRIDE_IN_1X1": False}
    load(make_model(*KINDS["tuned R50"], settings, seed=1), checkpoints["agbp R50"])
    assert "MODEL.RESNETS.STRIDE_IN_1X1: True" in "\n".join(log("WARNING"))


def test_a_detector_s_backbone_goes_where_it_has_another_name(checkpoints):
    """Below a pyramid, alone in AGBP, and with its last stage in the head."""
    source = torch.load(checkpoints["agdp R50"], weights_only=True)["model"]
    c4 = make_model(model_zoo.get_config_file("Base-RCNN-C4.yaml"), SMALL_R50, seed=1)
    for model in (make_model(*KINDS["agbp R50"], seed=1), c4):
        load(model, checkpoints["agdp R50"])
        for name, tensor in model.backbone.state_dict().items():
            if not name.endswith("num_batches_tracked"):  # AGBP's norms train, AGDP's do not
                assert torch.equal(tensor, source[f"backbone.bottom_up.{name}"])
    head = c4.roi_heads.res5.state_dict()
    assert all(torch.equal(t, source[f"backbone.bottom_up.res5.{n}"]) for n, t in head.items())


def test_classes_are_recorded_and_compared_by_name(tmp_path, log, empty_catalogs):
    for name, classes in (("a", ["crack", "dent"]), ("b", ["dent", "crack"])):
        MetadataCatalog.get(name).thing_classes = classes
    models, two = {}, {"MODEL.RETINANET.NUM_CLASSES": 2}
    for name in ("a", "b"):
        cfg = make_cfg(KINDS["tuned lite"][0], LITE, two, {"DATASETS.TRAIN": (name,)})
        trainer = type("Trainer", (), {"cfg": cfg, "state_dict": dict, "load_state_dict": id})()
        model = make_model(KINDS["tuned lite"][0], LITE, two)
        models[name] = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    models["a"].save("model")
    recorded = torch.load(tmp_path / "model.pth", weights_only=True)["agssp"]
    assert (recorded["num_classes"], recorded["classes"]) == (2, ["crack", "dent"])
    assert recorded["backbone"] == "build_timm_fpn_backbone"
    models["a"].load(str(tmp_path / "model.pth"))
    assert log("WARNING") == []
    models["b"].load(str(tmp_path / "model.pth"))
    assert "for the classes ['crack', 'dent']; here they are ['dent', 'crack']" in log("WARNING")[0]


def test_plain_detectron2_models_get_no_record(tmp_path):
    model = make_model(model_zoo.get_config_file("Base-RetinaNet.yaml"), SMALL_R50)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    assert torch.load(tmp_path / "model.pth", weights_only=True).keys() == {"model"}


def test_a_plain_model_with_agssp_s_weights_gets_one(checkpoints, tmp_path):
    model = make_model(model_zoo.get_config_file("Base-RetinaNet.yaml"), SMALL_R50)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.load(checkpoints["agbp R50"])
    checkpointer.save("model")
    recorded = torch.load(tmp_path / "model.pth", weights_only=True)["agssp"]
    assert recorded["settings"]["heads"]["MODEL.META_ARCHITECTURE"] == "RetinaNet"


def test_no_checkpoint_but_the_backbone_s_own_weights(tmp_path, log):
    torch.save(make_model(*KINDS["agbp lite"]).backbone.net.state_dict(), tmp_path / "imagenet.pth")
    weights = {"AGSSP.TIMM.WEIGHTS": str(tmp_path / "imagenet.pth")}
    load(make_model(KINDS["tuned lite"][0], LITE, weights), "")
    assert "The backbone is not from scratch: 'mobilenetv3_small_050'" in log("INFO")[-1]
    load(make_model(*KINDS["tuned lite"]), "")
    assert "from scratch" in log("INFO")[-1]
    assert "not from scratch" not in log("INFO")[-1]


# ---- files without a record, by names and shapes --------------------------------------------


def resnet(depth: int, **settings):
    return build_backbone(
        make_cfg("agbp/R50.yaml", SMALL_R50, {"MODEL.RESNETS.DEPTH": depth}, settings)
    )


def test_a_deeper_resnet_is_refused_by_the_names_of_its_blocks(tmp_path):
    """It covers all of the smaller one."""
    torch.save(resnet(101).state_dict(), tmp_path / "R101.pth")
    with pytest.raises(BackboneCoverageError) as error:
        load_weights(resnet(50), tmp_path / "R101.pth")
    assert "R101.pth have more than the backbone of ResNet" in str(error.value)
    left_over = str(error.value).split("Left over:\n  ")[1].split("\n  ")
    assert sorted(left_over) == sorted(f"res4.{index}" for index in range(6, 23))


def test_a_missing_block_is_refused_at_any_share(tmp_path):
    weights = resnet(101).state_dict()
    kept = {name: t for name, t in weights.items() if not name.startswith("res4.20.")}
    torch.save(kept, tmp_path / "cut.pth")
    with pytest.raises(BackboneCoverageError, match=r"lack blocks .*Missing:\n  res4\.20$"):
        load_weights(resnet(101), tmp_path / "cut.pth")


def test_what_is_expected_beside_a_backbone_is_let_through(tmp_path):
    weights = resnet(50).state_dict()
    beside = ["fc.weight", "stem.fc.weight", "stem.fc.bias", "stem.conv1.bias", "mask_token"]
    beside += ["res2.0.conv1.norm.num_batches_tracked", "head.weight"]
    torch.save({**weights, **dict.fromkeys(beside, torch.ones(1))}, tmp_path / "more.pth")
    model = resnet(50, **{"MODEL.RESNETS.OUT_FEATURES": ["res4"]})
    covered = load_weights(model, tmp_path / "more.pth")["backbone"]
    assert covered.share == 1
    assert covered.missing == ()
    torch.save({**weights, "res2.0.conv1.gate": torch.ones(1)}, tmp_path / "gated.pth")
    with pytest.raises(BackboneCoverageError, match=r"Left over:\n  res2\.0\.conv1\.gate"):
        load_weights(resnet(50), tmp_path / "gated.pth")


def test_caffe2_s_imagenet_file(tmp_path):
    """Arrays under Caffe2's names, without running statistics, as R-50.pkl."""
    model = make_model("finetune/" + RETINA.format("R50"), R18)
    weights = model.backbone.bottom_up.state_dict()
    arrays = {}
    for name, tensor in weights.items():
        if "running" in name:
            continue
        stage = re.match(r"res(\d)\.(\d)\.(conv\d|shortcut)\.(norm\.)?(\w+)", name)
        kind = {"weight": "w", "bias": "b"}
        if stage:
            res, block, layer, norm, what = stage.groups()
            branch = {"conv1": "branch2a", "conv2": "branch2b", "shortcut": "branch1"}[layer]
            middle = f"_bn_{'s' if what == 'weight' else 'b'}" if norm else f"_{kind[what]}"
            arrays[f"res{res}_{block}_{branch}{middle}"] = tensor.numpy()
        elif "norm" in name:
            arrays[f"res_conv1_bn_{'s' if name.endswith('weight') else 'b'}"] = tensor.numpy()
        else:
            arrays["conv1_w"] = tensor.numpy()
    arrays |= {
        "fc1000_w": weights["stem.conv1.weight"].numpy(),
        "conv1_w_momentum": arrays["conv1_w"],
    }
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    fresh = make_model("finetune/" + RETINA.format("R50"), R18, seed=1)
    coverage = load_weights(fresh, tmp_path / "R-18.pkl")
    assert coverage["backbone"].share == 1
    loaded = fresh.backbone.bottom_up.state_dict()
    stored = {name: tensor for name, tensor in weights.items() if "running" not in name}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_a_model_zoo_file_and_half_precision(tmp_path):
    model = make_model(*KINDS["tuned R50"])
    arrays = {name: tensor.half().numpy() for name, tensor in model.state_dict().items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final_0.pkl").write_bytes(pickle.dumps(content))
    fresh = make_model(*KINDS["tuned R50"], seed=1)
    load_weights(fresh, tmp_path / "model_final_0.pkl")
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float())


def test_code_in_a_weight_file_is_not_run(tmp_path):
    from tests.io.test_weight_files import Harm

    marker = tmp_path / "marker"
    for name in ("model.pkl", "model.pth"):
        content = {"model": {}, "__author__": Harm(marker)}
        if name.endswith("pth"):
            torch.save(content, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(WeightFileError, match=f"{name} holds more than tensors"):
            load_weights(resnet(50), tmp_path / name)
    assert not marker.exists()


SWIN = {
    "AGSSP.SWIN.DEPTHS": (1, 1, 2, 1),
    "AGSSP.SWIN.EMBED_DIM": 8,
    "AGSSP.SWIN.NUM_HEADS": (1, 1, 2, 2),
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
}


@pytest.mark.parametrize(
    ("backbone", "settings", "expected"),
    [
        (
            "build_swin_backbone",
            SWIN,
            {
                "AGSSP.SWIN.EMBED_DIM": 8,
                "AGSSP.SWIN.DEPTHS": [1, 1, 2, 1],
                "AGSSP.SWIN.WINDOW_SIZE": 7,
            },
        ),
        (
            "build_vit_backbone",
            {"AGSSP.VIT.SIZE": "tiny", "AGSSP.DISTILL.IN_FEATURES": ("last_feat",)},
            {"AGSSP.VIT.SIZE": "tiny", "AGSSP.VIT.PATCH_SIZE": 16},
        ),
        (
            "build_cspdarknet_backbone",
            {"AGSSP.CSPDARKNET.SIZE": "nano"},
            {"AGSSP.CSPDARKNET.SIZE": "nano"},
        ),
    ],
)
def test_backbones_by_yaml_record_their_size_and_load_again(
    backbone, settings, expected, tmp_path, log
):
    one_level = {"AGSSP.DISTILL.LOSS_WEIGHTS": (1.0,)} if "vit" in backbone else {}
    config = ("agbp/R50.yaml", SMALL_R50, {"MODEL.BACKBONE.NAME": backbone}, settings, one_level)
    path = export_backbone(make_model(*config), tmp_path / "backbone.pth")
    recorded = torch.load(path, weights_only=True)["agssp"]
    assert recorded["settings"]["backbone"] == expected
    coverage = load_weights(make_model(*config, seed=1), path)
    assert coverage["backbone"].missing == ()
    assert log("WARNING") == []


def test_a_swin_of_another_window_is_refused_with_its_keys(tmp_path):
    """By this package's file, and by any other."""
    config = ("agbp/R50.yaml", {"MODEL.BACKBONE.NAME": "build_swin_backbone"}, SWIN)
    model, other = make_model(*config), make_model(*config, {"AGSSP.SWIN.WINDOW_SIZE": 6})
    path = export_backbone(other, tmp_path / "swin.pth")
    message = (
        r"set AGSSP\.SWIN\.WINDOW_SIZE to that.*SIZE: 6.*table: \(121, 1\) instead of \(169, 1\)"
    )
    with pytest.raises(BackboneCoverageError, match=f"(?s){message}"):
        load_weights(model, path)
    torch.save(other.backbone.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(BackboneCoverageError, match=r"table: \(121, 1\) instead of \(169, 1\)"):
        load_weights(model, f"{tmp_path / 'plain.pth'}?matching_heuristics=True")


def test_a_swin_with_a_block_more_is_refused(tmp_path):
    config = ("agbp/R50.yaml", {"MODEL.BACKBONE.NAME": "build_swin_backbone"}, SWIN)
    deeper = make_model(*config, {"AGSSP.SWIN.DEPTHS": (1, 1, 3, 1)}).backbone
    torch.save({"model": deeper.state_dict(), "matching_heuristics": True}, tmp_path / "swin.pth")
    with pytest.raises(BackboneCoverageError, match=r"Left over:\n  layers\.2\.blocks\.2$"):
        load_weights(make_model(*config), tmp_path / "swin.pth")
