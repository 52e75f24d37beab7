"""YOLO nano through AGDP and fine-tuning in Detectron2's own train_net.py, by yaml."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from tests.test_stock_train_net import RUNNER, YAML_OF_STAGE, YAML_SETTINGS, stock_script
from tests.tiny_data import final_metrics, write_datasets
from tests.tiny_models import CONFIGS, ROOT


@pytest.mark.slow
def test_two_stages(tmp_path):
    datasets = write_datasets(tmp_path / "datasets")
    commands, start = [], ""
    for stage in ("agdp", "finetune"):
        settings = {**YAML_SETTINGS, **YAML_OF_STAGE[stage]}
        settings |= {"OUTPUT_DIR": tmp_path / stage, "MODEL.WEIGHTS": start}
        settings |= {"SOLVER.BASE_LR_END": 0.0, "AGSSP.INPUT.MOSAIC": 1.0}
        words = [str(word) for pair in settings.items() for word in pair]
        config = str(CONFIGS / stage / "yolo_cspdarknet_n.yaml")
        commands.append([str(stock_script("train_net.py")), "--config-file", config, *words])
        start = tmp_path / stage / "model_final.pth"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps([commands])],
        cwd=tmp_path,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
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
