"""One training or evaluation run of a LazyConfig, laid out as Detectron2's own are: ``model``,
``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``."""

import argparse
import logging

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    default_setup,
    default_writers,
    defaults,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.engine.processes import ddp_of
from detectron2_agssp.utils.cpu_memory import keep_freed_memory

logger = logging.getLogger(__name__)


def train_or_evaluate(args: argparse.Namespace) -> None:
    """Trains, or evaluates; called in every process of a run.

    Args:
        args: ``config_file``: a .py file, or ``agssp://lazy/...``, which is a program and is run;
            ``opts``: ``path.key=value`` of Hydra's grammar; ``resume`` and ``eval_only``.

    Raises:
        FileNotFoundError: there is no such config.
        ConnectionError: weights that cannot be downloaded.
    """
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    default_setup(cfg, args)
    keep_freed_memory()
    if str(cfg.train.device).startswith("cuda") and not torch.cuda.is_available():
        logger.warning("No GPU is visible: train.device %s becomes cpu.", cfg.train.device)
        cfg.train.device = "cpu"
    example = "agssp://lazy/agbp_lite0.py"
    fetch_weights(cfg.train.init_checkpoint, key="train.init_checkpoint=", instead=example)
    model = instantiate(cfg.model).to(cfg.train.device)
    if args.eval_only:
        CheckedCheckpointer(model).load(cfg.train.init_checkpoint)
        evaluate(cfg, model)
    else:
        train(cfg, model, resume=args.resume)


def evaluate(cfg: DictConfig, model: nn.Module) -> dict:
    """The results of ``cfg.dataloader.evaluator``; none where the config has no evaluator."""
    if "evaluator" not in cfg.dataloader:
        return {}
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def train(cfg: DictConfig, model: nn.Module, *, resume: bool) -> None:
    """Trains ``model`` to ``cfg.train.max_iter``, from ``cfg.train.init_checkpoint`` or, with
    ``resume``, from the last checkpoint in ``cfg.train.output_dir``, where there is one."""
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    with ddp_of(str(cfg.train.device)):
        model = defaults.create_ddp_model(model, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    folder = cfg.train.output_dir
    checkpointer = CheckedCheckpointer(model, folder, trainer=trainer)
    steps = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
    ]
    if comm.is_main_process():
        # Before the evaluation, which may fail; the writers after it, to write its results.
        steps.insert(2, hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer))
        writers = default_writers(folder, cfg.train.max_iter)
        steps.append(hooks.PeriodicWriter(writers, period=cfg.train.log_period))
    trainer.register_hooks(steps)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    goes_on = resume and checkpointer.has_checkpoint()
    # A checkpoint records the last iteration that is done.
    trainer.train(trainer.iter + 1 if goes_on else 0, cfg.train.max_iter)
