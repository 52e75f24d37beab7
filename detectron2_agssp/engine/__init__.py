"""The trainer of tools/train_net.py and its hooks."""

from detectron2_agssp.engine.hooks import ExportBackbone
from detectron2_agssp.engine.optimizer import build_adamw
from detectron2_agssp.engine.trainer import AGSSPTrainer

__all__ = ["AGSSPTrainer", "ExportBackbone", "build_adamw"]
