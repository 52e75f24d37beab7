"""YOLO nano through AGDP and fine-tuning in Detectron2's own train_net.py, by yaml."""

import math

import pytest
import torch

from tests.test_stock_train_net import run_stock_stages
from tests.tiny_data import final_metrics


@pytest.mark.slow
def test_two_stages(tmp_path):
    configs = {stage: f"{stage}/yolo_cspdarknet_n.yaml" for stage in ("agdp", "finetune")}
    settings = {"SOLVER.BASE_LR_END": 0.0, "AGSSP.INPUT.MOSAIC": 1.0}
    run_stock_stages(configs, settings, tmp_path)
    for stage in ("agdp", "finetune"):
        metrics = final_metrics(tmp_path / stage)
        losses = {name: value for name, value in metrics.items() if "loss_yolo" in name}
        assert len(losses) == 3
        assert all(math.isfinite(value) for value in losses.values())
    assert "bbox/AP" in metrics, "the fine-tuned detector was evaluated"
    agdp, tuned = (
        torch.load(tmp_path / stage / "model_final.pth", weights_only=True)["model"]
        for stage in ("agdp", "finetune")
    )
    for name, tensor in agdp.items():
        if "cls_score" in name:
            assert (len(tensor), len(tuned[name])) == (1, 6)
        elif not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(tuned[name], tensor, rtol=0, atol=1e-5)
