"""AGDP's one class as the start of several: what the detectors then predict."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate

from detectron2_agssp.checkpoint import spread_checkpoint, spread_classes
from tests.child_process import run_script
from tests.tiny_models import SMALL_R50, make_model, randomize

AGNOSTIC = {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
R_CNN = {
    "faster": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {}),
    "agnostic": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", AGNOSTIC),
    "c4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", {}),
    "mask": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", {}),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", {}),
}


def zoo_model(config: str, settings: dict, classes: int, seed: int = 0):
    number = {"MODEL.ROI_HEADS.NUM_CLASSES": classes, "MODEL.RETINANET.NUM_CLASSES": classes}
    path = model_zoo.get_config_file(config)
    return make_model(path, SMALL_R50, settings, number, seed=seed).eval()


def load(model, weights: dict) -> None:
    """Every tensor has to be there and fit."""
    model.load_state_dict(weights, strict=True)


@pytest.fixture(scope="module", params=R_CNN)
def detectors(request):
    """A one-class detector, and one of five classes that starts from it."""
    config, settings = R_CNN[request.param]
    one = zoo_model(config, settings, 1)
    randomize(one)
    five = zoo_model(config, settings, 5, seed=1)
    agnostic = request.param == "agnostic"
    load(five, spread_classes(one.state_dict(), 5, class_agnostic_boxes=agnostic))
    return one.roi_heads, five.roi_heads


def stages(roi_heads) -> list:
    predictor = roi_heads.box_predictor
    return list(predictor) if isinstance(predictor, torch.nn.ModuleList) else [predictor]


def test_every_class_gets_its_share_and_background_keeps_its_own(detectors):
    for one, five in zip(*map(stages, detectors), strict=True):
        features = torch.randn(7, one.cls_score.in_features)
        expected = one(features)[0].softmax(1)
        found = five(features)[0].softmax(1)
        assert found.shape == (7, 6)
        torch.testing.assert_close(found[:, 5], expected[:, 1])
        torch.testing.assert_close(found[:, :5], expected[:, :1].expand(7, 5) / 5)


def test_every_class_has_the_same_box_and_mask(detectors):
    for one, five in zip(*map(stages, detectors), strict=True):
        features = torch.randn(7, one.cls_score.in_features)
        expected, found = one(features)[1], five(features)[1]
        classes = found.shape[1] // 4
        found = found.view(7, classes, 4)
        torch.testing.assert_close(found, expected[:, None].expand_as(found))
    one, five = detectors
    if getattr(one, "mask_head", None) is not None:
        channels = one.mask_head.predictor.in_channels
        features = torch.randn(2, channels, 3, 4)
        expected, found = one.mask_head.predictor(features), five.mask_head.predictor(features)
        torch.testing.assert_close(found, expected.expand(2, 5, 3, 4))


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_dense_heads(kind):
    def build(classes: int):
        if kind == "retinanet":
            return zoo_model("COCO-Detection/retinanet_R_50_FPN_1x.yaml", {}, classes)
        config = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model
        config.num_classes = classes
        return instantiate(config).eval()

    one, four = build(1), build(4)
    randomize(one.head)
    load(four, spread_classes(one.state_dict(), 4))
    channels = one.head.cls_score.in_channels
    features = torch.randn(2, channels, 3, 5)
    expected, found = one.head.cls_score(features), four.head.cls_score(features)
    # (N, anchors, classes, h, w), the order in which Detectron2 reads them.
    expected = expected.view(2, -1, 1, 3, 5)
    found = found.view(2, expected.shape[1], 4, 3, 5)
    # The odds of each are a quarter of the one's.
    torch.testing.assert_close(4 * found.exp(), expected.exp().expand_as(found))


def test_one_class_stays_as_it_is_and_nothing_else_changes():
    weights = zoo_model("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {}, 1).state_dict()
    same = spread_classes(weights, 1)
    assert same.keys() == weights.keys()
    assert all(torch.equal(same[name], tensor) for name, tensor in weights.items())
    spread = spread_classes(weights, 3)
    changed = {name for name in weights if spread[name] is not weights[name]}
    assert changed == {name for name in weights if "box_predictor." in name}


@pytest.mark.parametrize(
    ("weights", "classes", "message"),
    [
        ({"head.cls_score.bias": torch.zeros(1)}, 0, "num_classes must be at least 1, got 0"),
        ({"backbone.stem.weight": torch.zeros(1)}, 2, "None of the 1 tensors is a class predictor"),
        (
            {"roi_heads.box_predictor.cls_score.bias": torch.zeros(11)},
            2,
            r"cls_score\.bias is a predictor of 10 classes",
        ),
        (
            {"roi_heads.box_predictor.0.cls_score.bias": torch.zeros(3)},
            2,
            r"box_predictor\.0\.cls_score\.bias is a predictor of 2 classes",
        ),
        (
            {"head.cls_score.bias": torch.zeros(18), "head.bbox_pred.bias": torch.zeros(36)},
            2,
            r"head\.cls_score\.bias is a predictor of 2 classes",
        ),
    ],
)
def test_what_cannot_be_spread_is_refused(weights, classes, message):
    with pytest.raises(ValueError, match=message):
        spread_classes(weights, classes)


@pytest.fixture
def checkpoint(tmp_path):
    """What AGDP leaves behind: with the optimizer's state."""
    model = make_model("agdp/faster_rcnn_R50_fpn.yaml", SMALL_R50)
    randomize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_final")
    return tmp_path / "model_final.pth"


def test_the_tool_writes_what_a_fine_tuning_starts_from(tools, checkpoint, tmp_path):
    target = tmp_path / "deep" / "start.pth"
    script = tools / "spread_classes.py"
    done = run_script(script, checkpoint, target, "--num-classes", "6", output=tmp_path)
    assert (done.code, done.stdout) == (0, f"Wrote {target}\n")
    config = ("finetune/faster_rcnn_R50_fpn.yaml", SMALL_R50, {"MODEL.ROI_HEADS.NUM_CLASSES": 6})
    model = make_model(*config, seed=1)
    # Nothing to resume: a fine-tuning begins at its first iteration.
    assert DetectionCheckpointer(model).load(str(target)) == {}
    expected = spread_classes(torch.load(checkpoint, weights_only=True)["model"], 6)
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("none.pth", "start.pth", "There is no checkpoint"),
        ("model_final.pth", "start.pt", "must end in .pth, got"),
        ("plain.pth", "start.pth", "is no checkpoint of Detectron2: it has no 'model'"),
    ],
)
def test_files_that_do_not_serve(source, target, message, tools, checkpoint, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pth")
    kind = FileNotFoundError if source == "none.pth" else ValueError
    with pytest.raises(kind, match=message):
        spread_checkpoint(tmp_path / source, tmp_path / target, 6)
    assert not (tmp_path / target).exists()


def test_an_error_of_the_tool_is_one_message(tools, tmp_path):
    arguments = [tmp_path / "none.pth", tmp_path / "start.pth", "--num-classes", "6"]
    done = run_script(tools / "spread_classes.py", *arguments, output=tmp_path)
    assert done.code == 2
    assert "There is no checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
