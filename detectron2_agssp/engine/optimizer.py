"""Optimisers by yaml, in any ``DefaultTrainer``: AdamW with the usual parameter groups, and
gradients clipped by the norm of all together."""

import functools
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
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
OPTIMIZERS = ("SGD", "ADAMW")
# Detectron2's own clip each parameter by itself.
FULL_MODEL = "full_model"
CLIP_TYPES = ("value", "norm", FULL_MODEL)
Builder = Callable[[CfgNode, nn.Module], torch.optim.Optimizer]


def build_optimizer(cfg: CfgNode, model: nn.Module, build_sgd: Builder) -> torch.optim.Optimizer:
    """The optimiser ``AGSSP.SOLVER.OPTIMIZER``, gradients clipped by ``SOLVER.CLIP_GRADIENTS``.

    Its ``CLIP_TYPE`` "full_model" scales the gradients of all parameters by one factor, so that
    their norm (``NORM_TYPE``) is ``CLIP_VALUE`` at most.

    Args:
        build_sgd: Detectron2's own, for "SGD".

    Raises:
        ValueError: an unknown optimiser or type of clipping.
    """
    name, clip = cfg.AGSSP.SOLVER.OPTIMIZER, cfg.SOLVER.CLIP_GRADIENTS
    if name not in OPTIMIZERS:
        choices = ", ".join(map(repr, OPTIMIZERS))
        raise ValueError(f"AGSSP.SOLVER.OPTIMIZER is {name!r}. Choices: {choices}.")
    if clip.ENABLED and clip.CLIP_TYPE not in CLIP_TYPES:
        choices = ", ".join(map(repr, CLIP_TYPES))
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}. Choices: {choices}."
        )
    clip_together = clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL
    if clip_together:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = (build_adamw if name == "ADAMW" else build_sgd)(cfg, model)
    if clip_together:

        def clip_all(optimizer: torch.optim.Optimizer, *_) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

        # Under mixed precision, too, gradients have their own scale there.
        optimizer.register_step_pre_hook(clip_all)
    return optimizer


def install_optimizers() -> None:
    """Makes every ``DefaultTrainer``, the stock train_net's too, build its optimiser by
    :func:`build_optimizer`. Does nothing the second time."""
    original = DefaultTrainer.build_optimizer.__func__
    if getattr(original, "knows_agssp", False):
        return

    @functools.wraps(original)
    def build(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        if "AGSSP" not in cfg:
            return original(cls, cfg, model)
        return build_optimizer(cfg, model, functools.partial(original, cls))

    build.knows_agssp = True
    DefaultTrainer.build_optimizer = classmethod(build)


def build_adamw(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW by ``SOLVER`` and ``AGSSP.SOLVER``: no decay on norms, biases and position tables;
    ``SLOW_PARTS`` learn at their share of the rate; gradients clipped by
    ``SOLVER.CLIP_GRADIENTS``.

    Raises:
        ValueError: the model lacks one of ``SLOW_PARTS``.
    """
    own = cfg.AGSSP.SOLVER
    parts = {part for name, _ in model.named_parameters() for part in name.split(".")}
    if unknown := sorted(set(own.SLOW_PARTS) - parts):
        raise ValueError(
            f"AGSSP.SOLVER.SLOW_PARTS has {unknown}, and no parameter of {type(model).__name__} "
            "has such a part in its name."
        )

    def factor(name: str) -> float:
        return own.SLOW_FACTOR if set(own.SLOW_PARTS) & set(name.split(".")) else 1.0

    no_decay = {name: {"weight_decay": 0.0} for name in POSITION_TABLES}
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
        lr_factor_func=factor,
        overrides=no_decay,
    )
    optimizer = torch.optim.AdamW(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        betas=tuple(own.BETAS),
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)
