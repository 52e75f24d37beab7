"""The cosine between energies and maps."""

import pytest
import torch

from detectron2_agssp.evaluation.map_evaluator import AnomalyMapEvaluator
from detectron2_agssp.modeling import distillation_loss


def image(anomaly_map, **features):
    """One image's input and output, energies as of features (C, h, w)."""
    energies = {name: feature.square().sum(0) for name, feature in features.items()}
    return {"anomaly_map": anomaly_map}, {"energies": energies}


def evaluate(*images, target_resize="area"):
    evaluator = AnomalyMapEvaluator(target_resize)
    for sample, output in images:
        evaluator.process([sample], [output])
    return evaluator.evaluate()["anomaly_map"]


@pytest.mark.parametrize("target_resize", ["area", "bilinear"])
def test_is_the_mean_over_images_of_one_minus_half_the_loss(target_resize):
    torch.manual_seed(0)
    images, losses = [], []
    for height, width in ((16, 24), (40, 8), (32, 32)):
        anomaly_map = torch.rand(1, height, width)
        features = torch.randn(5, height // 8, width // 8)
        images.append(image(anomaly_map, res4=features, res5=features))
        losses.append(distillation_loss(features[None], anomaly_map[None], target_resize))
    found = evaluate(*images, target_resize=target_resize)
    expected = 1 - float(torch.stack(losses).mean()) / 2
    # Sums of up to 16 float32 products, in another order, of which 2 - 2 cos takes the difference.
    assert found == {
        "cosine_res4": pytest.approx(expected, abs=5e-6),
        "cosine_res5": pytest.approx(expected, abs=5e-6),
    }


def test_known_numbers():
    anomaly_map = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]])
    same = image(anomaly_map, res5=torch.tensor([[[0.0, 2.0]]]))
    opposite = image(anomaly_map, res5=torch.tensor([[[3.0, 0.0]]]))
    flat = image(anomaly_map, res5=torch.tensor([[[1.0, 1.0]]]))
    assert evaluate(same) == {"cosine_res5": pytest.approx(1)}
    assert evaluate(opposite) == {"cosine_res5": pytest.approx(0)}
    assert evaluate(same, opposite, flat) == {"cosine_res5": pytest.approx((1 + 0.5**0.5) / 3)}


def test_images_without_anomaly_are_left_out():
    anomaly_map = torch.rand(1, 16, 16)
    feature = torch.rand(3, 2, 2)
    nothing = image(torch.zeros(1, 16, 16), res5=torch.rand(3, 2, 2))
    assert evaluate(nothing) == {}
    assert evaluate(image(anomaly_map, res5=feature), nothing) == evaluate(
        image(anomaly_map, res5=feature)
    )


def test_reset_forgets():
    evaluator = AnomalyMapEvaluator()
    sample, output = image(torch.rand(1, 16, 16), res5=torch.rand(3, 2, 2))
    evaluator.process([sample], [output])
    evaluator.reset()
    assert evaluator.evaluate() == {"anomaly_map": {}}
