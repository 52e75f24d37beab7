"""Fine-tuned weights in Detectron2 without this package."""

import subprocess
import sys

import pytest
import torch

from detectron2_agssp.cli.main import main
from detectron2_agssp.inference import open_run
from tests.inference.runs import write_run
from tests.tiny_models import SMALL_R50

WITHOUT_AGSSP = """
import sys
sys.modules["detectron2_agssp"] = None
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
cfg = get_cfg()
cfg.merge_from_file("plain.yaml")
model = build_model(cfg)
assert not DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS).get("missing_keys")
torch.save(model.state_dict(), "loaded.pth")
"""


def test_plain_detectron2_reads_the_config_and_the_weights(tmp_path):
    settings = {**SMALL_R50, "INPUT.MIN_SIZE_TEST": 64}
    run = write_run(tmp_path / "run", settings, config="finetune/faster_rcnn_R50_fpn.yaml")
    main(["export", str(run), str(tmp_path / "plain.pth")])
    subprocess.run([sys.executable, "-c", WITHOUT_AGSSP], cwd=tmp_path, check=True)
    loaded = torch.load(tmp_path / "loaded.pth")
    expected = open_run(run).build_model().state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_what_detectron2_cannot_build_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["export", str(run), str(tmp_path / "plain.pth")])
    said = capsys.readouterr().err
    assert "MODEL.BACKBONE.NAME build_timm_fpn_backbone is of detectron2_agssp" in said
    assert not list(tmp_path.glob("plain*"))
