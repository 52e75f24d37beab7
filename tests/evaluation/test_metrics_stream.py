"""Metrics in bounded memory, against the exact ones."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from detectron2_agssp.evaluation import anomaly_metrics
from detectron2_agssp.evaluation.metrics_stream import MapMetrics
from tests.evaluation.metric_references import make_pairs, plain_aupro

NAMES = ["auroc", "ap", "f1_max", "aupro"]


def unit_pairs(seed, levels=None, **kwargs):
    """:func:`make_pairs` with scores in [0, 1], some of them clipped to 0 and to 1."""
    maps, masks = make_pairs(seed, **kwargs)
    maps = [((anomaly_map - 0.2) / 1.3).clip(0, 1) for anomaly_map in maps]
    return [np.round(m * levels) / levels if levels else m for m in maps], masks


def accumulate(maps, masks, num_bins=2**16):
    metrics = MapMetrics(num_bins)
    for pair in zip(maps, masks, strict=True):
        metrics.update(*pair)
    return metrics


def references(maps, masks):
    """By scikit-learn, and a loop over all thresholds."""
    scores = np.concatenate([m.ravel() for m in maps])
    defect = np.concatenate([m.ravel() for m in masks])
    precision, recall, _ = precision_recall_curve(defect, scores)
    return {
        "auroc": roc_auc_score(defect, scores),
        "ap": average_precision_score(defect, scores),
        "f1_max": (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max(),
        "aupro": plain_aupro(maps, masks, 0.3),
    }


@pytest.mark.parametrize("levels", [None, 20])
def test_against_scikit_learn_and_a_plain_aupro(levels):
    maps, masks = unit_pairs(0, levels, sizes=((30, 50), (23, 17)))
    metrics = accumulate(maps, masks)
    assert list(metrics.compute()) == NAMES
    assert metrics.compute() == pytest.approx(references(maps, masks), abs=2e-4)


def test_coarse_bins_err_visibly_and_fine_ones_do_not():
    maps, masks = unit_pairs(2, sizes=[(60, 90)] * 3)
    exact = anomaly_metrics(maps, masks)
    coarse, fine = accumulate(maps, masks, 16), accumulate(maps, masks)
    assert max(abs(coarse.compute()[name] - exact[name]) for name in NAMES) > 1e-3
    assert fine.compute() == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("levels", [1, 10, 50])
def test_ties_lose_nothing(levels):
    """Each bin has one score at most."""
    maps, masks = unit_pairs(4, levels)
    metrics = accumulate(maps, masks, 64)
    assert metrics.compute() == pytest.approx(anomaly_metrics(maps, masks), abs=1e-9)


def test_zero_and_one_have_bins_of_their_own():
    anomaly_map, mask = np.array([[0, 1e-300, 1, np.nextafter(1, 0)]]), np.array([[0, 1, 1, 0]])
    metrics = accumulate([anomaly_map], [mask], 4)
    assert metrics.compute() == pytest.approx(anomaly_metrics([anomaly_map], [mask]), abs=1e-9)


def test_the_order_of_the_images_does_not_change_a_bit():
    maps, masks = unit_pairs(5, sizes=[(9, 14), (20, 11), (5, 7), (16, 16)])
    expected = accumulate(maps, masks, 500)
    for order in itertools.permutations(range(4)):
        metrics = accumulate([maps[i] for i in order], [masks[i] for i in order], 500)
        assert metrics.compute() == expected.compute()
        assert (metrics.num_images, metrics.num_regions) == (4, expected.num_regions)


def test_memory_does_not_grow_with_the_images():
    maps, masks = unit_pairs(6)
    metrics = accumulate(maps, masks, 64)
    before = len(pickle.dumps(metrics))
    for _ in range(30):
        for pair in zip(maps, masks, strict=True):
            metrics.update(*pair)
    assert len(pickle.dumps(metrics)) <= before + 32  # longer counts of images and regions
    exact = anomaly_metrics(maps, masks)
    assert accumulate(maps, masks).compute() == pytest.approx(exact, abs=1e-4)
    assert metrics.compute() == pytest.approx(accumulate(maps, masks, 64).compute())


def test_regions_of_awkward_sizes():
    """Thirds and sevenths of a region are not exact in binary; whole regions are."""
    mask = np.zeros((40, 60), bool)
    for row in range(0, 40, 2):
        mask[row, : 3 if row % 4 else 7] = True
    metrics = MapMetrics(8)
    for _ in range(100):
        metrics.update(mask.astype(np.float32), mask)
    assert metrics.num_regions == 2000
    assert metrics.compute()["aupro"] == 1.0
    maps = [np.random.default_rng(0).random(mask.shape)]
    expected = anomaly_metrics(maps, [mask])
    assert accumulate(maps, [mask], 10**6).compute() == pytest.approx(expected, abs=1e-5)


def test_an_image_without_a_defect_counts():
    maps, masks = unit_pairs(7)
    maps.append(np.full((10, 3), 0.5))
    masks.append(np.zeros((10, 3), bool))
    expected = anomaly_metrics(maps, masks)
    assert accumulate(maps, masks).compute() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, bool, torch.tensor])
def test_kinds_of_arrays(kind):
    maps, masks = unit_pairs(0, levels=1)
    converted = [kind(m) if kind is torch.tensor else m.astype(kind) for m in maps]
    numbers = [mask.astype(np.uint8) * 255 for mask in masks]
    assert accumulate(converted, numbers).compute() == accumulate(maps, masks).compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps, masks: ([], []), "no maps"),
        (lambda maps, masks: ([m[:, :-1] for m in maps], masks), r"Map 0 .*\(30, 49\).*Resize"),
        (lambda maps, masks: ([m * np.nan for m in maps], masks), "Map 0 has NaN"),
        (lambda maps, masks: ([maps[0], -maps[1], maps[2]], masks), "Map 1 .*from -1 to -?0; exp"),
        (lambda maps, masks: ([m * 2 for m in maps], masks), r"to 2; expected \[0, 1\].*clip"),
        (lambda maps, masks: (maps, [m & False for m in masks]), "0 defect"),
        (lambda maps, masks: (maps, [m | True for m in masks]), "0 normal"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        accumulate(*change(*unit_pairs(0))).compute()


def test_a_refused_map_leaves_no_trace():
    maps, masks = unit_pairs(0)
    metrics = accumulate(maps, masks)
    before = pickle.dumps(metrics)
    with pytest.raises(ValueError, match="Map 3 has NaN"):
        metrics.update(np.full((30, 50), np.nan), masks[0])
    assert pickle.dumps(metrics) == before
