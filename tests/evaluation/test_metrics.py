"""Pixel-level metrics against scikit-learn and a plain AUPRO."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from detectron2_agssp.evaluation import anomaly_metrics
from tests.evaluation.metric_references import make_pairs, plain_aupro


@pytest.mark.parametrize("levels", [None, 20, 1], ids=["no ties", "ties", "two values"])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_scikit_learn_and_a_plain_aupro(seed, levels):
    maps, masks = make_pairs(seed, levels=levels)
    result = anomaly_metrics(maps, masks)
    scores = np.concatenate([m.ravel() for m in maps])
    defect = np.concatenate([m.ravel() for m in masks])
    precision, recall, _ = precision_recall_curve(defect, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert result["auroc"] == pytest.approx(roc_auc_score(defect, scores), abs=1e-9)
    assert result["ap"] == pytest.approx(average_precision_score(defect, scores), abs=1e-9)
    assert result["f1_max"] == pytest.approx(f1.max(), abs=1e-9)
    assert result["aupro"] == pytest.approx(plain_aupro(maps, masks, 0.3), abs=1e-9)


@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_aupro_limit(limit):
    maps, masks = make_pairs(3)
    expected = plain_aupro(maps, masks, limit)
    assert anomaly_metrics(maps, masks, max_fpr=limit)["aupro"] == pytest.approx(expected, abs=1e-9)


def test_perfect_constant_and_reversed():
    mask = np.zeros((20, 30), bool)
    mask[3:6, 4:9] = True
    perfect = anomaly_metrics([mask.astype(float)], [mask])
    assert perfect == pytest.approx({"auroc": 1, "ap": 1, "f1_max": 1, "aupro": 1})
    constant = anomaly_metrics([np.full((20, 30), 0.4)], [mask])
    assert constant["auroc"] == pytest.approx(0.5)
    assert constant["aupro"] == pytest.approx(0.15)  # the diagonal up to 0.3, divided by it
    assert anomaly_metrics([1.0 - mask], [mask])["auroc"] == 0


def test_small_regions_count_as_much_as_large_ones():
    mask = np.zeros((20, 30), bool)
    mask[0:10, 0:10] = mask[15, 15] = True
    found_large = mask.astype(float)
    found_large[15, 15] = -1
    assert anomaly_metrics([found_large], [mask])["aupro"] == pytest.approx(0.5, abs=1e-2)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, bool, torch.tensor])
def test_kinds_of_arrays(kind):
    maps, masks = make_pairs(0, levels=1)
    maps = [np.minimum(anomaly_map, 1) for anomaly_map in maps]
    converted = [kind(m) if kind is torch.tensor else m.astype(kind) for m in maps]
    numbers = [mask.astype(np.uint8) * 255 for mask in masks]
    assert anomaly_metrics(converted, numbers) == pytest.approx(anomaly_metrics(maps, masks))


def test_order_and_stacking_change_nothing():
    maps, masks = make_pairs(5, sizes=[(20, 30)] * 4)
    expected = anomaly_metrics(maps, masks)
    assert anomaly_metrics(np.stack(maps), np.stack(masks)) == pytest.approx(expected)
    assert anomaly_metrics(maps[::-1], masks[::-1]) == pytest.approx(expected)
    assert anomaly_metrics(maps * 2, masks * 2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps, masks: (maps[:1], masks), "1 maps but 3 masks"),
        (lambda maps, masks: ([], []), "no maps"),
        (lambda maps, masks: ([m[:, :-1] for m in maps], masks), r"Map 0 .*\(30, 49\).*Resize"),
        (lambda maps, masks: ([m * np.nan for m in maps], masks), "Map 0 has NaN"),
        (lambda maps, masks: (maps, [m & False for m in masks]), "0 defect"),
        (lambda maps, masks: (maps, [m | True for m in masks]), "0 normal"),
        (lambda maps, masks: (maps, masks, 0), r"max_fpr must be in \(0, 1\], got 0"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        anomaly_metrics(*change(*make_pairs(0)))
