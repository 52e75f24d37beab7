"""Task-aligned assignment against a loop, and where there is little to assign."""

import numpy as np
import pytest
import torch

from detectron2_agssp.modeling.detectors.assignment import task_aligned_assignment
from tests.modeling.detectors import loops


def scene(num_boxes, seed, num_classes=3, height=40, width=64, stride=4):
    """Points on a grid, boxes predicted round them, and overlapping true boxes; float64."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(
        np.arange(stride / 2, height, stride), np.arange(stride / 2, width, stride), indexing="ij"
    )
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    sides = rng.uniform(1, 20, (len(points), 4))
    boxes = np.concatenate([points - sides[:, :2], points + sides[:, 2:]], axis=1)
    corner = rng.uniform(0, (width / 2, height / 2), (num_boxes, 2))
    truth = np.concatenate([corner, corner + rng.uniform(3, 30, (num_boxes, 2))], axis=1)
    scores = rng.uniform(0.01, 0.99, (len(points), num_classes))
    classes = rng.integers(num_classes, size=num_boxes)
    return scores, boxes, points, truth, classes


def tensors(arrays):
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("num_boxes", [1, 2, 7])
@pytest.mark.parametrize(("topk", "alpha", "beta"), [(10, 0.5, 6.0), (3, 1.0, 2.0), (1000, 0.5, 6)])
def test_against_a_loop(num_boxes, topk, alpha, beta):
    contested = 0
    for seed in range(5):
        arrays = scene(num_boxes, seed)
        settings = {"topk": topk, "alpha": alpha, "beta": beta}
        assignment = task_aligned_assignment(*tensors(arrays), **settings)
        matched, targets = loops.assign(*arrays, **settings)
        assert assignment.matched.tolist() == matched
        np.testing.assert_allclose(assignment.targets.numpy(), targets, rtol=1e-9)
        boxes_of_points = [
            loops.assign(*arrays[:3], arrays[3][[k]], arrays[4][[k]], **settings)[0]
            for k in range(num_boxes)
        ]
        wishes = sum(index >= 0 for own in boxes_of_points for index in own)
        contested += sum(index >= 0 for index in matched) < wishes
    assert num_boxes < 7 or contested, "boxes wanted the same points"


def test_single_precision_agrees():
    arrays = tensors(scene(7, 0))
    exact = task_aligned_assignment(*arrays)
    single = task_aligned_assignment(*(a.float() if a.is_floating_point() else a for a in arrays))
    assert single.targets.dtype == torch.float32
    assert torch.equal(single.matched, exact.matched)
    torch.testing.assert_close(single.targets.double(), exact.targets, rtol=1e-4, atol=1e-6)


def test_no_box():
    assignment = task_aligned_assignment(*tensors(scene(0, 0)))
    assert (assignment.matched == -1).all()
    assert not assignment.targets.any()


def test_no_point():
    scores, boxes, points, truth, classes = tensors(scene(2, 0))
    assignment = task_aligned_assignment(scores[:0], boxes[:0], points[:0], truth, classes)
    assert assignment.matched.shape == assignment.targets.shape == (0,)


def test_a_box_between_the_points_is_learnt_nowhere():
    scores, boxes, points, truth, classes = tensors(scene(1, 0))
    truth[0] = torch.tensor([2.5, 2.5, 5.5, 5.5])
    assert (task_aligned_assignment(scores, boxes, points, truth, classes).matched == -1).all()


def test_boxes_that_nothing_overlaps_give_targets_of_zero():
    """Points inside are still theirs, and no target is NaN."""
    scores, boxes, points, truth, classes = tensors(scene(1, 0))
    assignment = task_aligned_assignment(scores, boxes + 1000, points, truth, classes)
    assert (assignment.matched == 0).any()
    assert not assignment.targets.any()
    unsure = task_aligned_assignment(scores * 0, boxes, points, truth, classes)
    assert not unsure.targets.any()
