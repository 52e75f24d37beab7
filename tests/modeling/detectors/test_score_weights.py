"""Pseudo-boxes weighted by their scores, in each of Detectron2's detectors: what a box teaches is
multiplied by its score, and nothing else is touched."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2 import model_zoo, modeling
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import proposal_utils
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from detectron2_agssp import plugin
from detectron2_agssp.checkpoint.record import record_of
from detectron2_agssp.modeling import weight_by_score
from detectron2_agssp.modeling.detectors.score_weights import scores_of
from tests.tiny_models import SMALL_R50, detection_inputs, make_cfg, make_model

DETECTORS = {
    "faster_rcnn_R50_fpn": SMALL_R50,
    "cascade_rcnn_R50_fpn": SMALL_R50,
    "mask_rcnn_R50_fpn": {**SMALL_R50, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1},
    "retinanet_R50_fpn": SMALL_R50,
    "fcos_R50_fpn": {**SMALL_R50, "AGSSP.FCOS.NORM": "", "AGSSP.FCOS.NUM_CONVS": 1},
}
WEIGHTED = {"AGSSP.BOXES.WEIGHT_BY_SCORE": True}
PREDICTORS = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred", "ctrness")
PREDICTOR_BIASES = tuple(f"{name}.bias" for name in (*PREDICTORS, "mask_head.predictor"))


@pytest.fixture(autouse=True)
def suppression_in_double_precision(monkeypatch):
    """Detectron2's makes boxes single, and scores not."""
    original = proposal_utils.batched_nms
    monkeypatch.setattr(
        proposal_utils,
        "batched_nms",
        lambda boxes, scores, *rest: original(boxes, scores.float(), *rest),
    )


def make(name, weighted=True):
    # Features of random layers are so large otherwise that all scores are 0 or 1.
    settings = {"MODEL.PIXEL_STD": [100.0] * 3, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64}
    settings |= WEIGHTED if weighted else {}
    model = make_model(f"agdp/{name}.yaml", DETECTORS[name], settings).double().train()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() > 1 and not path.startswith("backbone"):
                # A cascade's boxes stay where they are, to be those of its next stage, too.
                parameter.normal_(std=0 if "box_predictor" in path and "bbox" in path else 0.05)
    return model


def scored(scores, masks=False):
    """An image with two boxes that share no anchor, one without boxes, and one without scores."""
    inputs = detection_inputs((64, 96), (50, 64), (40, 60), masks=masks)
    instances = Instances((64, 96))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6, 30, 40], [60, 20, 90, 60]]))
    instances.gt_classes = torch.zeros(2, dtype=torch.int64)
    instances.gt_scores = torch.tensor(scores)
    if masks:
        instances.gt_masks = BitMasks(torch.ones(2, 64, 96, dtype=torch.bool))
    inputs[0]["instances"] = instances
    inputs[1]["instances"] = inputs[1]["instances"][:0]
    return inputs


def step(model, inputs):
    """Losses, and the gradients of their sum; anchors and proposals are drawn alike each time."""
    model.zero_grad()
    model.loss_normalizer = 100
    torch.manual_seed(0)
    # Of the focal loss, other kernels would be compiled after some calls.
    with EventStorage(), torch.jit.optimized_execution(False):
        losses = model(inputs)
        sum(losses.values()).backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return losses, gradients


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request):
    """Its name, weighted and plain, with equal tensors."""
    return request.param, make(request.param), make(request.param, weighted=False)


def test_scores_of_one_change_no_bit(detector):
    name, weighted, plain = detector
    inputs = scored([1.0, 1.0], masks="mask" in name)
    (losses, gradients), (expected, of_plain) = step(weighted, inputs), step(plain, inputs)
    assert losses == expected
    assert gradients.keys() == of_plain.keys()
    assert [path for path in gradients if not torch.equal(gradients[path], of_plain[path])] == []


def test_a_doubled_score_doubles_what_its_box_teaches(detector):
    """And leaves the other box, the background and the other images as they were."""
    name, model, _ = detector

    def gradients(*scores):
        return step(model, scored(list(scores), masks="mask" in name))[1]

    background, first, second = gradients(0, 0), gradients(0.4, 0), gradients(0, 0.4)
    doubled, both = gradients(0.8, 0), gradients(0.8, 0.4)
    for path, rest in background.items():
        share, other = first[path] - rest, second[path] - rest
        tolerance = {"rtol": 1e-7, "atol": 1e-10 * (1 + rest.abs().max().item())}
        torch.testing.assert_close(doubled[path] - rest, 2 * share, **tolerance, msg=path)
        torch.testing.assert_close(both[path] - rest, 2 * share + other, **tolerance, msg=path)
        if path.endswith(("objectness_logits.bias", "cls_score.bias", "mask_head.predictor.bias")):
            assert share.any() or other.any(), path


def test_what_is_logged_remains_without_weights(detector):
    name, model, plain = detector
    inputs = scored([0.3, 0.7], masks="mask" in name)
    assert step(model, inputs)[0] == step(plain, inputs)[0]


def test_boxes_that_count_nothing_teach_no_box_and_no_mask(detector):
    name, model, _ = detector
    inputs = scored([0.0, 0.0], masks="mask" in name)[:2]
    biases = {
        path: g for path, g in step(model, inputs)[1].items() if path.endswith(PREDICTOR_BIASES)
    }
    taught = {path for path, gradient in biases.items() if gradient.any()}
    assert taught == {path for path in biases if "cls_score" in path or "objectness" in path}


def test_copies_are_weighted_alike(detector):
    """And names, as records of checkpoints have them, are Detectron2's."""
    name, model, plain = detector
    inputs = scored([0.3, 0.7], masks="mask" in name)
    found, expected = step(copy.deepcopy(model), inputs)[1], step(model, inputs)[1]
    assert all(torch.equal(found[path], expected[path]) for path in expected)
    kinds = [[type(module).__name__ for module in one.modules()] for one in (model, plain)]
    assert kinds[0] == kinds[1]
    assert record_of(model)["settings"] == record_of(plain)["settings"]
    with torch.no_grad():
        single = [copy.deepcopy(one).float().eval() for one in (model, plain)]
        outputs = [str(one(detection_inputs((64, 96)))) for one in single]
    assert outputs[0] == outputs[1]


def test_a_box_predictor_against_the_weighted_loss():
    """Cross entropy and L1, summed in float64 with a weight each, by a loop."""
    model = make("faster_rcnn_R50_fpn")
    predictor = model.roi_heads.box_predictor
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    proposals = Instances((60, 60))
    corners = torch.rand(5, 2, generator=generator, dtype=torch.float64) * 20
    proposals.proposal_boxes = Boxes(torch.cat([corners, corners + 25], dim=1))
    proposals.gt_boxes = Boxes(torch.cat([corners + 3, corners + 20], dim=1))
    proposals.gt_classes = torch.tensor([0, 1, 0, 1, 0])  # 1 is the background
    proposals.gt_scores = torch.tensor([0.25, 0.5, 0.75, 0.5, 1.0])
    with EventStorage():
        losses = predictor.losses((logits, deltas), [proposals])
    found = torch.autograd.grad(sum(losses.values()), (logits, deltas))
    weights = torch.tensor([0.25, 1, 0.75, 1, 1], dtype=torch.float64)
    targets = predictor.box2box_transform.get_deltas(
        proposals.proposal_boxes.tensor, proposals.gt_boxes.tensor
    ).double()
    total = 0
    for row, label in enumerate(proposals.gt_classes.tolist()):
        term = -F.log_softmax(logits[row], dim=0)[label]
        if label == 0:
            term = term + (deltas[row] - targets[row]).abs().sum()
        total = total + weights[row] * term / 5
    expected = torch.autograd.grad(total, (logits, deltas))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_scores_of_copies():
    instances = Instances((9, 9))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [0, 0, 4, 4]]))
    instances.gt_scores = torch.tensor([0.2, 0.5, 0.9])
    boxes = instances.gt_boxes.tensor[[1, 0, 2, 1]]
    torch.testing.assert_close(scores_of(boxes, instances), torch.tensor([0.5, 0.9, 0.9, 0.5]))


# ---- where it is asked for


def test_without_the_key_nothing_is_replaced():
    for name in ("faster_rcnn_R50_fpn", "retinanet_R50_fpn"):
        for module in make(name, weighted=False).modules():
            assert "score_weights" not in str(type(module).__mro__)


def test_wherever_the_function_was_imported_to():
    for owner in (modeling, modeling.meta_arch.build, model_zoo.model_zoo):
        assert owner.build_model is build_model
    before = modeling.build_model
    plugin.install()
    assert modeling.build_model is before
    cfg = make_cfg("agdp/faster_rcnn_R50_fpn.yaml", SMALL_R50, WEIGHTED)
    model = DefaultTrainer.build_model(cfg)
    assert "score_weights" in str(type(model.proposal_generator).__mro__)


def test_a_detector_that_weights_itself():
    cfg = make_cfg("agdp/yolo_cspdarknet_n.yaml", WEIGHTED)
    assert "score_weights" not in str(type(build_model(cfg)).__mro__)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"MODEL.KEYPOINT_ON": True}, "KRCNNConvDeconvUpsampleHead"),
        ({"MODEL.META_ARCHITECTURE": "SemanticSegmentor"}, "SemanticSegmentor"),
    ],
)
def test_other_losses_are_refused_by_name(settings, part):
    cfg = make_cfg("agdp/faster_rcnn_R50_fpn.yaml", SMALL_R50, WEIGHTED, settings)
    with pytest.raises(ValueError, match=f"WEIGHT_BY_SCORE .* losses of {part}.*set it to False"):
        build_model(cfg)


def test_a_model_of_one_s_own_is_refused():
    with pytest.raises(ValueError, match="losses of Linear, which would learn without weights"):
        weight_by_score(nn.Linear(1, 1))
