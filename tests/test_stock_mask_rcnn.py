"""Mask R-CNN through AGDP and fine-tuning in Detectron2's own train_net.py, by yaml: pseudo-masks,
then masks as run lengths."""

import math

import pytest
import torch

from tests.test_stock_train_net import run_stock_stages
from tests.tiny_data import final_metrics
from tests.tiny_models import SMALL_R50

STAGES = ("agdp", "finetune")
SETTINGS = {
    **{key: value for key, value in SMALL_R50.items() if key != "MODEL.WEIGHTS"},
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "AGSSP.SOLVER.EPOCHS": 0.0,
    "SOLVER.STEPS": (),
    "SOLVER.BASE_LR": 1e-6,  # random ResNets with frozen norms diverge soon
    "DATASETS.TEST": ("neu_det_test",),
    # Recomputes boxes from cropped masks.
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "relative_range",
    "INPUT.CROP.SIZE": [0.7, 0.7],
    "TEST.EVAL_PERIOD": 0,
}


@pytest.mark.slow
def test_two_stages(tmp_path):
    configs = {stage: f"{stage}/mask_rcnn_R50_fpn.yaml" for stage in STAGES}
    classes = {"finetune": {"MODEL.ROI_HEADS.NUM_CLASSES": 6}}
    run_stock_stages(configs, SETTINGS, tmp_path, classes)
    for stage in STAGES:
        metrics = final_metrics(tmp_path / stage)
        losses = {name: value for name, value in metrics.items() if "loss" in name}
        assert {"loss_mask", "loss_box_reg", "loss_rpn_cls"} <= losses.keys()
        assert all(math.isfinite(value) for value in losses.values())
        assert {"bbox/AP", "segm/AP"} <= metrics.keys()
    agdp, tuned = (
        torch.load(tmp_path / stage / "model_final.pth", weights_only=True)["model"]
        for stage in STAGES
    )
    for name, tensor in agdp.items():
        if "mask_head.predictor" in name:
            assert (len(tensor), len(tuned[name])) == (1, 6)
        elif "box_predictor" not in name:
            torch.testing.assert_close(tuned[name], tensor, rtol=0, atol=1e-5)
