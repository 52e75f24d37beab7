"""DINO's matching, losses and denoising against loops in float64, a number at a time."""

import itertools
import math

import numpy as np
import pytest
import torch

from detectron2_agssp.modeling.detectors.dino_denoising import add_noise
from detectron2_agssp.modeling.detectors.dino_losses import match, set_losses
from detectron2_agssp.modeling.detectors.labels import Truth
from tests.modeling.detectors import loops

FOCAL = {"alpha": 0.25, "gamma": 2.0}
WEIGHTS = (2.0, 5.0, 2.0)


def corners(box) -> list[float]:
    x, y, width, height = box
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def giou(first, second) -> float:
    """Rezatofighi et al., CVPR 2019, algorithm 1."""
    first, second = corners(first), corners(second)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    overlap = loops.iou(first, second)
    union = sum(areas) / (1 + overlap)
    width = max(first[2], second[2]) - min(first[0], second[0])
    height = max(first[3], second[3]) - min(first[1], second[1])
    return overlap - (width * height - union) / (width * height)


def focal_terms(logit) -> tuple[float, float]:
    """Of a class that is there, and of one that is not (Lin et al., ICCV 2017, equation 5)."""
    score = 1 / (1 + math.exp(-logit))
    there = -0.25 * (1 - score) ** 2 * math.log(score)
    return there, -0.75 * score**2 * math.log(1 - score)


def pair_cost(logits, box, label, truth) -> float:
    there, absent = focal_terms(logits[label])
    distance = sum(abs(a - b) for a, b in zip(box, truth, strict=True))
    return 2 * (there - absent) + 5 * distance - 2 * giou(box, truth)


def random_boxes(rng, *shape) -> np.ndarray:
    return np.concatenate(
        [rng.uniform(0.3, 0.7, (*shape, 2)), rng.uniform(0.1, 0.5, (*shape, 2))], -1
    )


def random_case(counts, num_queries=4, num_classes=3, layers=2, seed=0):
    """Logits, boxes, which are valid, and the truth, as tensors."""
    rng = np.random.default_rng(seed)
    shape, total = (layers, len(counts), num_queries), sum(counts)
    arrays = rng.normal(0, 2, (*shape, num_classes)), random_boxes(rng, *shape)
    valid = torch.ones(shape[1:], dtype=torch.bool)
    valid[-1, -1] = False
    classes = torch.from_numpy(rng.integers(num_classes, size=total))
    boxes, weights = random_boxes(rng, total), rng.uniform(size=total)
    truth = Truth(list(counts), classes, torch.from_numpy(boxes), torch.from_numpy(weights))
    return *map(torch.from_numpy, arrays), valid, truth


@pytest.mark.parametrize("counts", [(2, 3), (0, 1), (1, 0), (0, 0), (6, 2), (3,)])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_matching_against_all_assignments(counts, num_classes):
    """More boxes than queries included."""
    logits, boxes, valid, truth = random_case(counts, num_classes=num_classes)
    found = match(logits, boxes, valid, truth, weights=WEIGHTS, **FOCAL)
    starts = np.cumsum([0, *counts])
    for layer, image in np.ndindex(found.shape[:2]):
        queries = valid[image].nonzero()[:, 0].tolist()
        own = range(starts[image], starts[image + 1])
        cost = {
            (q, k): pair_cost(
                logits[layer, image, q].tolist(),
                boxes[layer, image, q].tolist(),
                truth.classes[k].item(),
                truth.boxes[k].tolist(),
            )
            for q, k in itertools.product(queries, own)
        }
        size = min(len(queries), len(own))
        candidates = (
            list(zip(chosen, some, strict=True))
            for chosen in itertools.permutations(queries, size)
            for some in itertools.combinations(own, size)
        )
        best = min(candidates, key=lambda pairs: sum(cost[pair] for pair in pairs))
        pairs = [(q, k) for q, k in enumerate(found[layer, image].tolist()) if k >= 0]
        assert sorted(pairs) == sorted(best)


def test_what_is_no_number_matches_somehow():
    """So that training ends by its loss, with the trainer's advice."""
    logits, boxes, valid, truth = random_case((2, 3))
    logits[:, 0], boxes[0, 1, 2] = torch.nan, torch.inf
    found = match(logits, boxes, valid, truth, weights=WEIGHTS, **FOCAL)
    assert [(row >= 0).sum().item() for row in found.flatten(0, 1)] == [2, 3] * 2
    assert set_losses(logits, boxes, valid, found, truth, **FOCAL)["cls"].isnan()


@pytest.mark.parametrize("counts", [(2, 3), (0, 1), (0, 0)])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_losses_against_a_loop(counts, num_classes):
    logits, boxes, valid, truth = random_case(counts, num_classes=num_classes)
    matched = match(logits, boxes, valid, truth, weights=WEIGHTS, **FOCAL)
    found = set_losses(logits, boxes, valid, matched, truth, **FOCAL)
    expected = {"cls": 0.0, "l1": 0.0, "giou": 0.0}
    for index in np.ndindex(matched.shape):
        if not valid[index[1:]]:
            continue
        k = matched[index].item()
        weight = truth.weights[k].item() if k >= 0 else 1
        for label, logit in enumerate(logits[index].tolist()):
            there, absent = focal_terms(logit)
            loss = there if k >= 0 and truth.classes[k] == label else absent
            expected["cls"] += weight * loss
        if k >= 0:
            box, own = boxes[index].tolist(), truth.boxes[k].tolist()
            expected["l1"] += weight * sum(abs(a - b) for a, b in zip(box, own, strict=True))
            expected["giou"] += weight * (1 - giou(box, own))
    for name, loss in found.items():
        assert loss.item() == pytest.approx(expected[name], rel=1e-6, abs=1e-12), name


def test_without_a_box_gradients_of_boxes_are_zero():
    """Not absent, which distributed training does not allow."""
    logits, boxes, valid, truth = random_case((0, 0))
    learnt = [logits.requires_grad_(), boxes.requires_grad_()]
    matched = match(*learnt, valid, truth, weights=WEIGHTS, **FOCAL)
    sum(set_losses(*learnt, valid, matched, truth, **FOCAL).values()).backward()
    assert logits.grad.any()
    assert not boxes.grad.any()


def noisy(counts, max_queries=40, num_classes=3, label_noise=0.25, box_noise=1.0, seed=0):
    *_, truth = random_case(counts, num_classes=num_classes)
    torch.manual_seed(seed)
    settings = {"label_noise": label_noise, "box_noise": box_noise}
    found = add_noise(truth, num_classes=num_classes, max_queries=max_queries, **settings)
    return truth, found


def test_groups_have_each_box_twice():
    """Weak noise, to be undone, and strong noise; an image with fewer boxes has empty places."""
    _, found = noisy((2, 0, 3), max_queries=20)
    assert found.groups.tolist() == [1] * 6 + [2] * 6 + [3] * 6
    one_group = {0: [0, 1, -1] + [-1] * 3, 1: [-1] * 6, 2: [2, 3, 4] + [-1] * 3}
    filled = {0: [1, 1, 0] * 2, 1: [0] * 6, 2: [1] * 6}
    for image in range(3):
        assert found.matched[image].tolist() == one_group[image] * 3
        assert found.valid[image].tolist() == filled[image] * 3


@pytest.mark.parametrize(
    ("counts", "max_queries", "number"),
    [((1,), 7, 6), ((4, 2), 5, 8), ((0, 0), 9, 0), ((2,), 0, 0)],
)
def test_number_of_queries(counts, max_queries, number):
    """One group at least, also where it is more than the maximum; none without boxes."""
    _, found = noisy(counts, max_queries=max_queries)
    assert found.valid.shape == found.classes.shape == (len(counts), number)
    assert found.boxes.shape == (len(counts), number, 4)


@pytest.mark.parametrize(("num_classes", "share"), [(1, 0.0), (2, 0.25), (5, 0.25)])
def test_noise_of_labels(num_classes, share):
    """That share become another class, every other one equally often."""
    truth, found = noisy((1,), max_queries=8000, num_classes=num_classes)
    counts = found.classes[0].bincount(minlength=num_classes) / found.classes.numel()
    own = truth.classes[0]
    assert counts[own].item() == pytest.approx(1 - share, abs=0.02)
    others = [count.item() for label, count in enumerate(counts) if label != own]
    assert others == pytest.approx([share / max(num_classes - 1, 1)] * len(others), abs=0.02)


@pytest.mark.parametrize("box_noise", [0.4, 1.0])
def test_noise_of_boxes(box_noise):
    """Sides move by up to a half of the box, or by a half to a whole, to both sides; boxes are
    turned right again, and cut to the image."""
    truth, found = noisy((2,), max_queries=4000, box_noise=box_noise)
    boxes = found.boxes[0].unflatten(0, (-1, 2, 2))
    before = np.array([corners(box) for box in truth.boxes.tolist()])
    after = np.array([corners(box) for box in boxes.flatten(0, 2).tolist()])
    after = after.reshape(*boxes.shape)
    assert (boxes[..., 2:] >= 0).all()
    assert (after > -1e-9).all()
    assert (after < 1 + 1e-9).all()
    extent = np.tile(truth.boxes[:, 2:].numpy(), 2)
    weak, strong = np.moveaxis(np.abs(after - before) / extent, 1, 0) / box_noise
    assert weak.max() == pytest.approx(0.5, abs=0.01)
    assert weak.mean() == pytest.approx(0.25, abs=0.01)
    assert strong.max() == pytest.approx(1, abs=0.02)
    untouched = (after[:, 1] > 1e-6) & (after[:, 1] < 1 - 1e-6)
    if box_noise < 1:
        assert strong[untouched].min() == pytest.approx(0.5, abs=0.02)
    shifts = (after - before)[:, 0]
    assert (shifts > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_the_same_seed_gives_the_same_noise():
    first, second, other = (noisy((2, 3), seed=seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.classes, second.classes)
    assert not torch.equal(first.boxes, other.boxes)
