"""Folders as trainings leave them: tiny detectors with random weights."""

from pathlib import Path

import torch
from detectron2.modeling import build_model

from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.checkpoint.record import KEY, record_of
from tests.tiny_models import SMALL_TIMM, make_cfg

CONFIG = "finetune/faster_rcnn_lite0_fpn.yaml"
CLASSES = ["scratch", "pit"]
SETTINGS = {
    **SMALL_TIMM,
    "AGSSP.TIMM.MODEL": "mobilenetv3_small_050",
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "INPUT.MIN_SIZE_TEST": 64,
    "DATASETS.TRAIN": ("nosuch_train",),
    "DATASETS.TEST": (),
}


def write_run(root: Path, *settings: dict, config: str = CONFIG, name: str = "model_final") -> Path:
    """The folder ``root`` with config.yaml and weights, whose record names CLASSES."""
    cfg = make_cfg(config, SETTINGS, *settings)
    torch.manual_seed(0)
    model = build_model(cfg)
    root.mkdir(parents=True, exist_ok=True)
    record = record_of(model, None)
    record["classes"] = CLASSES if record["num_classes"] == len(CLASSES) else []
    CheckedCheckpointer(model, str(root)).save(name, **{KEY: record})
    (root / "config.yaml").write_text(cfg.dump())
    return root
