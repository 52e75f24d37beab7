"""What a student is taught of a teacher's detections."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from detectron2_agssp.modeling.pseudo_labels import (
    ClassThresholds,
    WithheldLabels,
    are_right,
    erase,
    map_agreement,
    move_boxes,
    split_detections,
    unexplained,
)


def detections(boxes, scores, classes, size=(40, 60)):
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def labels(*classes, boxes=()):
    instances = Instances((40, 60))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if boxes:
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    return instances


def test_thresholds_let_as_many_boxes_through_as_labels_let_expect():
    thresholds = ClassThresholds(3, share=1.0, bounds=(0.1, 0.9), window=100)
    # Two boxes of class 0 an image, one of class 1 in every second, none of class 2.
    thresholds.count_labels([labels(0, 0), labels(0, 0, 1)])
    scores = np.random.default_rng(0).uniform(0.2, 0.8, (40, 3, 4))
    for image in scores:
        classes = np.repeat(np.arange(3), 4)
        own = detections(np.zeros((12, 4)), image.ravel(), classes)
        thresholds.count_detections([own])
    found = thresholds()
    expected = [np.sort(scores[:, 0], axis=None)[-80], np.sort(scores[:, 1], axis=None)[-20]]
    torch.testing.assert_close(found[:2], torch.tensor(expected, dtype=torch.float32))
    # Nothing is expected of class 2: only the very best score counts.
    assert found[2] == pytest.approx(scores[:, 2].max())


def test_thresholds_forget_the_oldest_images_and_keep_within_bounds():
    thresholds = ClassThresholds(1, share=1.0, bounds=(0.3, 0.7), window=4, per_image=2)
    thresholds.count_labels([labels(0)])
    thresholds.count_detections([detections([[0, 0, 1, 1]], [0.95], [0])] * 4)
    assert thresholds().item() == pytest.approx(0.7)
    thresholds.count_detections([detections([[0, 0, 1, 1]] * 3, [0.5, 0.4, 0.45], [0] * 3)] * 4)
    assert thresholds().item() == pytest.approx(0.5)
    thresholds.count_detections([detections([], [], [])] * 4)
    assert thresholds().item() == pytest.approx(0.3)


def test_a_fixed_threshold():
    thresholds = ClassThresholds(2, fixed=0.6)
    assert thresholds().tolist() == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"share": 0.0}, "BOX_SHARE"),
        ({"bounds": (0.6, 0.5)}, "SCORE_BOUNDS"),
        ({"fixed": 1.5}, "SCORE_THRESHOLD"),
    ],
)
def test_thresholds_out_of_range_are_named(settings, key):
    with pytest.raises(ValueError, match=f"AGSSP.TEACHER.{key}"):
        ClassThresholds(2, **settings)


def test_detections_are_true_possible_or_none():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 1, 10, 11], [20, 20, 30, 30]]
    own = detections(boxes, [0.7, 0.4, 0.2, 0.4, 0.4], [0, 0, 0, 0, 1])
    accepted, maybe = split_detections(own, torch.tensor([0.6, 0.3]), 0.5)
    assert accepted.scores.tolist() == pytest.approx([0.7, 0.4])
    # The third is below half its threshold, the fourth lies on the first.
    assert maybe.tolist() == [boxes[1]]
    _, none = split_detections(own, torch.tensor([0.6, 0.3]), 1.0)
    assert len(none) == 0


def test_boxes_are_cut_by_the_other_view():
    matrix = torch.tensor([[2.0, 0.0, -10.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    boxes = torch.tensor([[10.0, 0, 20, 5], [0.0, 0, 10, 5], [0.0, 10, 4, 20]])
    moved, share = move_boxes(boxes, matrix, (30, 40))
    assert moved.tolist() == [[10, 0, 30, 10], [0, 0, 10, 10], [0, 20, 0, 30]]
    assert share.tolist() == pytest.approx([1, 0.5, 0])


def test_components_without_a_detection():
    components = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 60, 40], [50.0, 50, 60, 60]])
    found = torch.tensor([[5.0, 5, 15, 15], [38.0, 18, 42, 22]])
    # The second is hardly covered, but a detection's centre lies in it.
    assert unexplained(components, found).tolist() == [[50, 50, 60, 60]]
    assert len(unexplained(components, found[:0])) == 3


def test_a_map_agrees_unless_boxes_are_calmer_than_their_surroundings():
    anomaly_map = torch.zeros(40, 60)
    anomaly_map[10:20, 20:40] = 0.8
    on, beside, nowhere = [20.0, 10, 40, 20], [42.0, 10, 52, 20], [0.0, 30, 5, 35]
    agreement = map_agreement(torch.tensor([on, beside, nowhere]), anomaly_map)
    assert agreement.tolist() == pytest.approx([1, 0, 1])
    flat = map_agreement(torch.tensor([on]), torch.full((40, 60), 0.7))
    assert flat.tolist() == pytest.approx([1])
    assert map_agreement(torch.zeros(0, 4), anomaly_map).shape == (0,)


def test_map_agreement_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    anomaly_map = torch.rand(23, 31, generator=generator)
    corners = torch.rand(20, 2, 2, generator=generator).sort(dim=1).values
    boxes = (corners * torch.tensor([31, 23])).flatten(1)
    for box, agreement in zip(boxes, map_agreement(boxes, anomaly_map), strict=True):
        x0, y0, x1, y1 = box.tolist()
        dx, dy = (x1 - x0) / 2, (y1 - y0) / 2
        ring, inside = [], []
        inner = [round(v) for v in (x0, y0, x1, y1)]
        outer = [round(v) for v in (x0 - dx, y0 - dy, x1 + dx, y1 + dy)]
        for y in range(max(outer[1], 0), min(outer[3], 23)):
            for x in range(max(outer[0], 0), min(outer[2], 31)):
                is_inside = inner[0] <= x < inner[2] and inner[1] <= y < inner[3]
                (inside if is_inside else ring).append(anomaly_map[y, x].item())
        mean, around = (sum(v) / max(len(v), 1) for v in (inside, ring))
        against = max(0, (around - mean) / max(around + mean, 1e-6))
        assert agreement.item() == pytest.approx(1 - against, abs=1e-5)


def test_erased_is_what_is_ignored_and_not_kept():
    image = torch.randint(0, 255, (3, 20, 30), dtype=torch.uint8)
    before = image.clone()
    erased = erase(image, torch.tensor([[5.0, 5, 15, 15]]), torch.tensor([[10.0, 0, 30, 20]]))
    assert torch.equal(image, before)
    changed = torch.zeros(20, 30, dtype=torch.bool)
    changed[5:15, 5:10] = True
    assert torch.equal(erased[:, ~changed], image[:, ~changed])
    mean = image.float().mean(dim=(1, 2)).to(torch.uint8)
    assert torch.equal(erased[:, changed], mean[:, None].expand(-1, 50))
    assert erase(image, torch.zeros(0, 4), torch.zeros(0, 4)) is image


def test_right_is_the_best_on_each_label_of_its_class():
    box, near, far = [10.0, 10, 30, 30], [11.0, 10, 31, 30], [40.0, 0, 60, 20]
    found = detections([near, box, box, far], [0.6, 0.9, 0.8, 0.7], [0, 0, 1, 0])
    assert are_right(found, labels(0, boxes=[box])).tolist() == [False, True, False, False]
    # Of two labels each detection takes the one that it fits better.
    assert are_right(found, labels(0, 0, 1, boxes=[near, box, far])).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert are_right(found[:0], labels(0, boxes=[box])).tolist() == []
    nothing = labels()
    nothing.gt_boxes = Boxes(torch.zeros(0, 4))
    assert are_right(found, nothing).tolist() == [False] * 4


def test_precision_and_recall_of_the_latest_images():
    box, other = [10.0, 10, 30, 30], [40.0, 0, 60, 20]
    withheld = WithheldLabels(3, window=2)
    assert all(values.isnan().all() for values in withheld())
    wrong = detections([other], [0.9], [2])
    withheld.count([wrong], [labels(0, boxes=[box])])
    right = detections([box, other], [0.9, 0.8], [0, 1])
    withheld.count([right, wrong], [labels(0, 0, boxes=[box, other]), labels(2, boxes=[other])])
    # The first image is forgotten.
    precision, recall = withheld()
    assert precision.tolist() == pytest.approx([1, 0, 1, 2 / 3])
    assert recall[[0, 2, 3]].tolist() == pytest.approx([1 / 2, 1, 2 / 3])
    assert recall[1].isnan()
    withheld.count([], [])
    assert int(withheld.images) == 3
