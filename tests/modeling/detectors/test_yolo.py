"""The detector YOLO: what it learns from, what it detects, and what it refuses."""

import logging

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from detectron2_agssp.modeling import YOLO
from detectron2_agssp.modeling.detectors.yolo_head import YOLOHead
from tests.modeling.detectors import loops
from tests.modeling.detectors.samples import (
    said_of_area,
    with_boxes_without_area,
    with_scores,
)
from tests.tiny_models import AverageBackbone, detection_inputs, make_model

CONFIG = "finetune/yolo_cspdarknet_n.yaml"
LOSSES = ("loss_yolo_cls", "loss_yolo_box", "loss_yolo_dfl")
STRIDES = {"p3": 8, "p4": 16, "p5": 32}


def tiny_yolo(num_classes=2, seed=0, **settings) -> YOLO:
    """On cell means, and a head without convolutions of 3 x 3 but for their middle: a point sees
    its own cell only."""
    torch.manual_seed(seed)
    backbone = AverageBackbone(STRIDES)
    head = YOLOHead(
        input_shape=list(backbone.output_shape().values()), num_classes=num_classes, prior_prob=0.2
    )
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                middle = module.weight[:, :, 1, 1].clone()
                module.weight.zero_()[:, :, 1, 1] = middle * 3
    pixels = {"pixel_mean": [127.0] * 3, "pixel_std": [64.0] * 3}
    return YOLO(backbone=backbone, head=head, head_in_features=list(STRIDES), **pixels, **settings)


def step(model, inputs) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model(inputs)


def test_padding_takes_no_part_in_training():
    """Each image alone, in a batch of images of other sizes, or without: the losses of all are the
    sums of the images' own."""
    model = tiny_yolo().train()
    # Statistics of a batch would see padding.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    inputs = detection_inputs((64, 90), (50, 64), (33, 128))
    inputs[2]["instances"] = inputs[2]["instances"][:0]
    totals = {}
    model.loss_weights = dict.fromkeys(LOSSES, 1.0)
    sums = []
    for sample in inputs:
        losses, normalizer = step(model, [sample]), target_sum(model, sample)
        sums.append(normalizer)
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0) + loss * max(normalizer, 1)
    for name, loss in step(model, inputs).items():
        torch.testing.assert_close(loss, totals[name] / max(sum(sums), 1), msg=name)


def target_sum(model, sample) -> float:
    """Of the target scores of an image's points, by the loop."""
    with torch.no_grad():
        images = model.preprocess_image([sample])
        features = [model.backbone(images.tensor)[name] for name in STRIDES]
        logits, bins = (output[0].double().numpy() for output in model.head(features))
    height, width = sample["image"].shape[-2:]
    cells = [
        (((x + 0.5) * stride, (y + 0.5) * stride), stride)
        for feature, stride in zip(features, STRIDES.values(), strict=True)
        for y in range(feature.shape[2])
        for x in range(feature.shape[3])
    ]
    inside = [i for i, ((x, y), _) in enumerate(cells) if x < width and y < height]
    boxes = [loops.decode(bins[i], *cells[i]) for i in inside]
    instances = sample["instances"]
    _, targets = loops.assign(
        1 / (1 + np.exp(-logits[inside])),
        boxes,
        [cells[i][0] for i in inside],
        instances.gt_boxes.tensor.numpy(),
        instances.gt_classes.numpy(),
        *(10, 0.5, 6.0),
    )
    return sum(targets)


def test_padding_takes_no_part_in_detection():
    model = tiny_yolo(test_score_thresh=0.0, max_detections_per_image=1000).eval()
    inputs = detection_inputs((64, 90), (50, 64))
    with torch.no_grad():
        together = model(inputs)
        alone = [model([sample])[0] for sample in inputs]
    for output, expected in zip(together, alone, strict=True):
        ours, theirs = output["instances"], expected["instances"]
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        torch.testing.assert_close(ours.scores, theirs.scores)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_detections_are_those_of_a_loop(num_classes):
    """Above the threshold, on the image, by falling score, one per place and class."""
    settings = {"test_score_thresh": 0.15, "test_nms_thresh": 0.5, "max_detections_per_image": 9}
    model = tiny_yolo(num_classes, **settings).eval()
    (sample,) = detection_inputs((120, 200))
    with torch.no_grad():
        features = model.backbone(model.preprocess_image([sample]).tensor)
        outputs = model.head(list(features.values()))
        instances = model([sample])[0]["instances"]
    logits, bins = (output[0].double().numpy() for output in outputs)
    candidates = []
    cells = [
        ((x + 0.5) * stride, (y + 0.5) * stride, stride)
        for name, stride in STRIDES.items()
        for y in range(features[name].shape[2])
        for x in range(features[name].shape[3])
    ]
    for (x, y, stride), own_logits, own_bins in zip(cells, logits, bins, strict=True):
        if x < 200 and y < 120:
            box = np.clip(loops.decode(own_bins, (x, y), stride), 0, [200, 120] * 2)
            scores = 1 / (1 + np.exp(-own_logits))
            candidates += [(s, c, box) for c, s in enumerate(scores) if s > 0.15]
    expected = []
    for score, label, box in sorted(candidates, key=lambda candidate: -candidate[0]):
        if all(label != c or loops.iou(box, other) <= 0.5 for _, c, other in expected):
            expected.append((score, label, box))
    expected = expected[:9]
    assert len(instances) == len(expected) > 2
    np.testing.assert_allclose(instances.scores, [score for score, *_ in expected], rtol=1e-5)
    assert instances.pred_classes.tolist() == [label for _, label, _ in expected]
    boxes = np.array([box for *_, box in expected])
    np.testing.assert_allclose(instances.pred_boxes.tensor, boxes, rtol=0, atol=1e-3)


def test_detections_have_the_size_that_is_asked_for():
    model = tiny_yolo(test_score_thresh=0.0).eval()
    (sample,) = detection_inputs((48, 64))
    with torch.no_grad():
        plain = model([sample])[0]["instances"]
        scaled = model([{**sample, "height": 96, "width": 192}])[0]["instances"]
    assert scaled.image_size == (96, 192)
    expected = plain.pred_boxes.tensor * torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(scaled.pred_boxes.tensor, expected)


def test_nothing_above_the_threshold():
    model = tiny_yolo(test_score_thresh=0.999).eval()
    with torch.no_grad():
        (output,) = model(detection_inputs((48, 64)))
    assert len(output["instances"]) == 0


def test_boxes_without_area_are_dropped_and_counted_once(caplog):
    model = tiny_yolo().eval().train()
    (sample,) = detection_inputs((64, 96), num_boxes=1)
    expected = step(model, [sample])
    with_flat = with_boxes_without_area(sample)
    with caplog.at_level(logging.WARNING):
        losses = [step(model, [with_flat]) for _ in range(2)]
    assert losses[0] == losses[1] == expected
    said = said_of_area(caplog)
    assert len(said) == 1
    assert said[0].startswith("4 boxes")


@pytest.mark.parametrize("label", [2, -1])
def test_a_class_that_the_head_does_not_have(label):
    (sample,) = detection_inputs((64, 96))
    sample["instances"].gt_classes[1] = label
    with pytest.raises(ValueError, match=rf"class {label}, but AGSSP.YOLO.NUM_CLASSES is 2"):
        step(tiny_yolo().train(), [sample])


def test_scores_of_pseudo_boxes_weight_their_losses():
    model = tiny_yolo(weight_by_score=True).train()
    (sample,) = detection_inputs((64, 96), num_boxes=1)
    full, half, none = (step(model, [with_scores(sample, score)]) for score in (1.0, 0.5, 0.0))
    unscored = step(model, [sample])
    assert unscored == full, "labels have no score"
    for name in LOSSES[1:]:
        torch.testing.assert_close(half[name], full[name] / 2)
        assert none[name] == 0
    name = LOSSES[0]
    torch.testing.assert_close(half[name], (full[name] + none[name]) / 2)
    assert 0 < none[name] < full[name], "the background is learnt as ever"
    model.weight_by_score = False
    assert step(model, [with_scores(sample, 0.5)]) == full


@pytest.mark.parametrize("sizes", [[(64, 96)], [(64, 90), (50, 64)]])
@pytest.mark.parametrize("num_boxes", [0, 3])
def test_gradients_reach_every_parameter(sizes, num_boxes):
    # So many points that boxes are learnt on every level.
    model = make_model(CONFIG, {"AGSSP.YOLO.ASSIGN_TOPK": 1000}).train()
    losses = step(model, detection_inputs(*sizes, num_boxes=num_boxes))
    assert set(losses) == set(LOSSES)
    assert (losses["loss_yolo_box"] > 0) == (num_boxes > 0)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if num_boxes:
            assert parameter.grad.any(), name


def test_losses_are_in_single_precision_under_autocast():
    model = make_model(CONFIG).train()
    inputs = detection_inputs((64, 96), (50, 64))
    exact = step(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = step(model, inputs)
        sum(losses.values()).backward()
        with torch.no_grad():
            outputs = model.eval()(inputs)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.1, atol=0.01)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(output["instances"].scores.dtype == torch.float32 for output in outputs)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_detects_the_same_on_another_image():
    """With another number of candidates."""
    settings = {"test_nms_thresh": 1.0, "max_detections_per_image": 1000}
    model = tiny_yolo(test_score_thresh=0.2, **settings).eval()
    first, second = detection_inputs((64, 96), (64, 96))
    inputs = [{"image": first["image"].float()}]
    with torch.no_grad():
        adapter = TracingAdapter(model, inputs)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        image = second["image"].float()
        (output,) = adapter.outputs_schema(traced(image))
        expected = model([{"image": image}])[0]["instances"]
        number = len(model(inputs)[0]["instances"])
    instances = output["instances"]
    assert 0 < number != len(expected) > 0
    assert len(instances) == len(expected)
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(instances.scores, expected.scores)


def test_the_same_seed_gives_the_same_numbers():
    inputs = detection_inputs((64, 96))
    first, second = (step(make_model(CONFIG, seed=3).train(), inputs) for _ in range(2))
    assert first == second


def test_every_key_reaches_the_model():
    keys = {"ASSIGN_TOPK": 5, "ASSIGN_ALPHA": 1.0, "ASSIGN_BETA": 2.0, "CLS_WEIGHT": 0.1}
    keys |= {"BOX_WEIGHT": 0.2, "DFL_WEIGHT": 0.3, "SCORE_THRESH_TEST": 0.4}
    keys |= {"TOPK_CANDIDATES_TEST": 6, "NMS_THRESH_TEST": 0.7}
    settings = {f"AGSSP.YOLO.{key}": value for key, value in keys.items()}
    settings |= {"AGSSP.YOLO.NUM_BINS": 4, "AGSSP.YOLO.HEAD_CHANNELS": 12}
    settings |= {"AGSSP.BOXES.WEIGHT_BY_SCORE": True, "TEST.DETECTIONS_PER_IMAGE": 8}
    settings |= {"AGSSP.YOLO.NORM": "FrozenBN", "AGSSP.YOLO.NUM_CLASSES": 9}
    model = make_model(CONFIG, settings)
    values = (model.assign_topk, model.assign_alpha, model.assign_beta)
    values += tuple(model.loss_weights.values())
    values += (model.test_score_thresh, model.test_topk_candidates, model.test_nms_thresh)
    assert values == tuple(keys.values())
    assert (model.weight_by_score, model.max_detections_per_image) == (True, 8)
    assert model.head.box_bins[0].weight.shape == (16, 12, 1, 1)
    assert (model.num_classes, len(model.head.cls_score[2].bias)) == (9, 9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.head.modules())


@pytest.mark.parametrize("builder", ["build_resnet_fpn_backbone", "build_timm_fpn_backbone"])
def test_on_any_pyramid(builder):
    """Of res3 to res5; the level that Detectron2's pyramids pool from p5 is not used."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "YOLO", "MODEL.DEVICE", "cpu"),
            *("MODEL.BACKBONE.NAME", builder, "MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 8),
            *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
            *("AGSSP.TIMM.MODEL", "mobilenetv3_small_050", "AGSSP.TIMM.WEIGHTS", ""),
        ]
    )
    model = build_model(cfg).train()
    losses = step(model, detection_inputs((64, 90), (50, 64)))
    sum(losses.values()).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"AGSSP.YOLO.IN_FEATURES": ("p2", "p3")},
            r"IN_FEATURES asks for \['p2'\].*returns \['p3'",
        ),
        ({"AGSSP.YOLO.IN_FEATURES": ()}, r"IN_FEATURES asks for nothing"),
        ({"AGSSP.YOLO.NORM": "GN"}, r"NORM of convolutions is 'GN'. Choices: BN"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_model(CONFIG, settings)
