"""YOLO's head and losses against loops in float64."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec

from detectron2_agssp.modeling.detectors.yolo_head import YOLOHead, decode_boxes, level_points
from detectron2_agssp.modeling.detectors.yolo_losses import distribution_focal_loss, yolo_losses
from tests.modeling.detectors import loops

LEVELS = [ShapeSpec(channels=6, stride=8), ShapeSpec(channels=8, stride=16)]


def random_case(num_points=12, num_classes=3, num_bins=16, seed=0) -> dict[str, np.ndarray]:
    """Arguments of ``yolo_losses``; every third point learns no box."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(30, 90, (num_points, 2))
    strides = rng.choice([8.0, 16.0], num_points)
    bins = rng.normal(0, 2, (num_points, 4, num_bins))
    sides = rng.uniform(1, 40, (num_points, 4))
    positive = np.arange(num_points) % 3 > 0
    boxes = [loops.decode(*case) for case in zip(bins, points, strides, strict=True)]
    return {
        "logits": rng.normal(0, 2, (num_points, num_classes)),
        "bins": bins,
        "boxes": np.array(boxes).reshape(-1, 4),
        "targets": rng.uniform(0.1, 1, num_points) * positive,
        "classes": np.where(positive, rng.integers(num_classes, size=num_points), -1),
        "gt_boxes": np.concatenate([points - sides[:, :2], points + sides[:, 2:]], axis=1),
        "points": points,
        "strides": strides,
        "weights": rng.uniform(0, 1, num_points),
    }


def expected_losses(case) -> dict[str, float]:
    entropy = box = dfl = 0.0
    for p in range(len(case["points"])):
        for c, logit in enumerate(case["logits"][p]):
            score = 1 / (1 + math.exp(-logit))
            wanted = case["targets"][p] if c == case["classes"][p] else 0.0
            loss = -wanted * math.log(score) - (1 - wanted) * math.log(1 - score)
            entropy += case["weights"][p] * loss
        if case["classes"][p] >= 0:
            weight = case["weights"][p] * case["targets"][p]
            (x, y), truth = case["points"][p], case["gt_boxes"][p]
            box += weight * loops.ciou_loss(case["boxes"][p], truth)
            sides = np.array([x - truth[0], y - truth[1], truth[2] - x, truth[3] - y])
            distances = sides / case["strides"][p]
            dfl += weight * loops.distribution_focal_loss(case["bins"][p], distances)
    total = max(case["targets"].sum(), 1)
    return {
        "loss_yolo_cls": entropy / total,
        "loss_yolo_box": box / total,
        "loss_yolo_dfl": dfl / total,
    }


@pytest.mark.parametrize(("num_points", "num_classes"), [(30, 3), (12, 1), (2, 5), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_against_a_loop(num_points, num_classes, dtype):
    """The last two have target scores of under 1 in all, and no box at all."""
    case = random_case(num_points, num_classes)
    arguments = {key: torch.from_numpy(value) for key, value in case.items()}
    for key, value in arguments.items():
        arguments[key] = value.to(dtype) if value.is_floating_point() else value
    losses = yolo_losses(**arguments)
    assert all(loss.dtype == dtype for loss in losses.values())
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4  # torchvision adds 1e-7 to areas
    for name, expected in expected_losses(case).items():
        assert losses[name].item() == pytest.approx(expected, rel=tolerance, abs=1e-9), name


def test_without_a_box_gradients_of_boxes_are_zero():
    """Not absent, which distributed training does not allow."""
    arguments = {key: torch.from_numpy(value) for key, value in random_case().items()}
    arguments["targets"].zero_()
    arguments["classes"].fill_(-1)
    learnt = [arguments[key].requires_grad_() for key in ("logits", "bins", "boxes")]
    sum(yolo_losses(**arguments).values()).backward()
    assert learnt[0].grad.abs().sum() > 0
    assert not learnt[1].grad.any()
    assert not learnt[2].grad.any()


@pytest.mark.parametrize("num_bins", [2, 16])
def test_distribution_focal_loss_at_the_ends(num_bins):
    """Whole distances, none, the last bin, and beyond it."""
    last = num_bins - 1
    bins = np.random.default_rng(0).normal(size=(2, 4, num_bins))
    distances = np.array([[0.0, 1.0, last, last - 0.25], [last + 3.0, last + 0.5, 0.5, 1e-6]])
    losses = distribution_focal_loss(torch.from_numpy(bins), torch.from_numpy(distances))
    expected = [
        loops.distribution_focal_loss(*row)
        for row in zip(bins, distances.clip(0, last), strict=True)
    ]
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_distribution_focal_loss_is_least_at_the_true_distance():
    """Gradient descent on the bins alone moves their mean there."""
    bins = torch.zeros(1, 4, 16, dtype=torch.float64, requires_grad=True)
    distances = torch.tensor([[0.3, 4.0, 7.6, 14.9]], dtype=torch.float64)
    optimizer = torch.optim.Adam([bins], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        distribution_focal_loss(bins, distances).sum().backward()
        optimizer.step()
    means = bins.softmax(-1) @ torch.arange(16.0, dtype=torch.float64)
    torch.testing.assert_close(means, distances, rtol=0, atol=0.05)


def test_points_are_the_middles_of_cells_row_by_row():
    points, strides = level_points([torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 1, 2)], [8, 16])
    fine = [[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [4.0, 12.0], [12.0, 12.0], [20.0, 12.0]]
    assert points.tolist() == [*fine, [8.0, 8.0], [24.0, 8.0]]
    assert strides.tolist() == [8.0] * 6 + [16.0] * 2


def test_boxes_are_decoded_as_by_a_loop():
    case = random_case()
    arguments = [torch.from_numpy(case[key]) for key in ("bins", "points", "strides")]
    np.testing.assert_allclose(decode_boxes(*arguments).numpy(), case["boxes"], rtol=1e-12)


def test_the_head_s_outputs_belong_to_the_points_of_their_cells():
    """A cell that differs changes what two 3 x 3 convolutions see of it."""
    torch.manual_seed(0)
    head = YOLOHead(input_shape=LEVELS, num_classes=3, num_bins=4).eval()
    features = [torch.zeros(2, 6, 12, 16), torch.zeros(2, 8, 6, 8)]
    before = head(features)
    points, strides = level_points(features, [8, 16])
    assert before[0].shape == (2, len(points), 3)
    assert before[1].shape == (2, len(points), 4, 4)
    features[1][1, :, 4, 6] = 1.0
    cell = torch.tensor([6.5, 4.5]) * 16
    near = ((points - cell).abs().amax(dim=1) <= 2 * 16) & (strides == 16)
    for old, new in zip(before, head(features), strict=True):
        changed = (new != old).flatten(2).any(dim=2)
        assert not changed[0].any()
        assert torch.equal(changed[1], near)


def test_scores_start_at_the_prior():
    head = YOLOHead(input_shape=LEVELS, num_classes=3, prior_prob=0.02)
    for predictor in head.cls_score:
        torch.testing.assert_close(predictor.bias.sigmoid(), torch.full((3,), 0.02))


@pytest.mark.parametrize("settings", [{"num_bins": 1}, {"prior_prob": 0.0}, {"prior_prob": 1.0}])
def test_bad_settings_of_the_head(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=rf"AGSSP.YOLO.{name.upper()} must be .*got {value}"):
        YOLOHead(input_shape=LEVELS, num_classes=3, **settings)
