"""Mixed precision by ``SOLVER.AMP.ENABLED`` on CPUs, in bfloat16.

On GPUs it is Detectron2's own, in float16, which needs CUDA.
"""

import functools
import logging

import torch
from detectron2.config import CfgNode
from torch import nn

from detectron2_agssp.utils.precision import cpu_has_bfloat16

logger = logging.getLogger(__name__)


def without_cuda_amp(cfg: CfgNode) -> CfgNode:
    """``cfg`` without Detectron2's mixed precision where it trains on a CPU; else itself."""
    if not (cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu"):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    cfg.freeze()
    return cfg


def train_in_bfloat16(model: nn.Module) -> None:
    """Makes the training forward passes of ``model`` run under autocast, if the CPU is made for it.
    Weights and gradients stay in float32, and evaluation as it is; gradients need no scaling."""
    if not cpu_has_bfloat16():
        logger.warning(
            "SOLVER.AMP.ENABLED: this CPU has no instructions for bfloat16; training in float32."
        )
        return
    forward = model.forward

    @functools.wraps(forward)
    def autocast_forward(*args, **kwargs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.training):
            return forward(*args, **kwargs)

    model.forward = autocast_forward
