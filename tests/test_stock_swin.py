"""A small Swin through AGBP, AGDP and fine-tuning in Detectron2's own train_net.py, by yaml."""

import math

import pytest
import torch

from tests.test_stock_train_net import STAGES, run_stock_stages
from tests.tiny_data import final_metrics

NAMES = {
    "agbp": "agbp/swin_b.yaml",
    "agdp": "agdp/faster_rcnn_swin_b_fpn.yaml",
    "finetune": "finetune/faster_rcnn_swin_b_fpn.yaml",
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "AGSSP.SWIN.SIZE": "tiny",
    "AGSSP.SWIN.EMBED_DIM": 16,
    "AGSSP.SWIN.DEPTHS": (1, 1, 2, 1),
    "AGSSP.SWIN.NUM_HEADS": (1, 2, 2, 4),
    # Of 4 images at 2 per batch.
    "AGSSP.SOLVER.EPOCHS": 2.0,
    "AGSSP.SOLVER.WARMUP_EPOCHS": 0.0,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "TEST.EVAL_PERIOD": 0,
}


@pytest.mark.slow
def test_three_stages(tmp_path):
    run_stock_stages(NAMES, SMALL, tmp_path)
    weights = {}
    for stage in STAGES:
        metrics = final_metrics(tmp_path / stage)
        assert metrics["iteration"] in (3, 4), "two epochs are four iterations"
        losses = [value for name, value in metrics.items() if "loss" in name]
        assert losses
        assert all(map(math.isfinite, losses))
        content = torch.load(tmp_path / stage / "model_final.pth", weights_only=True)
        weights[stage] = content["model"]
    for name, tensor in weights["agbp"].items():
        if name.startswith("backbone."):
            inside = name.replace("backbone.", "backbone.bottom_up.")
            assert torch.equal(weights["agdp"][inside], tensor), "frozen in AGDP"
            torch.testing.assert_close(weights["finetune"][inside], tensor, rtol=0, atol=1e-5)
