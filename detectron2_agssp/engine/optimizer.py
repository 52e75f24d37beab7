"""AdamW with the usual parameter groups."""

import torch
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

# Tables of positions, by the names of Detectron2's and timm's transformers.
POSITION_TABLES = (
    "relative_position_bias_table",
    "absolute_pos_embed",
    "pos_embed",
    "rel_pos_h",
    "rel_pos_w",
)


def build_adamw(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW by ``SOLVER`` and ``AGSSP.SOLVER.BETAS``: no decay on norms, biases and position
    tables; gradients clipped by ``SOLVER.CLIP_GRADIENTS``."""
    no_decay = {name: {"weight_decay": 0.0} for name in POSITION_TABLES}
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
        overrides=no_decay,
    )
    optimizer = torch.optim.AdamW(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        betas=tuple(cfg.AGSSP.SOLVER.BETAS),
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)
