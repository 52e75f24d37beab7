"""``AGSSP.SOLVER.EPOCHS``: schedules in passes over the data: one yaml serves every corpus."""

import functools
import logging
import math

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.engine import DefaultTrainer

logger = logging.getLogger(__name__)


def iterations_from_epochs(cfg: CfgNode) -> CfgNode:
    """``cfg`` with the iterations that its epochs are on ``DATASETS.TRAIN``; itself without epochs.

    ``MAX_ITER`` becomes EPOCHS passes; ``STEPS``, ``CHECKPOINT_PERIOD`` and ``TEST.EVAL_PERIOD``
    keep their share of it; ``WARMUP_ITERS`` becomes WARMUP_EPOCHS where that is positive.

    Raises:
        ValueError: negative epochs, or no image to train on.
    """
    epochs = cfg.AGSSP.SOLVER.EPOCHS if "AGSSP" in cfg else 0
    if epochs == 0:
        return cfg
    warmup_epochs = cfg.AGSSP.SOLVER.WARMUP_EPOCHS
    for key, value in (("EPOCHS", epochs), ("WARMUP_EPOCHS", warmup_epochs)):
        if value < 0:
            raise ValueError(f"AGSSP.SOLVER.{key} must not be negative, got {value}.")
    try:
        images = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            check_consistency=False,
        )
    except AssertionError as error:
        # Detectron2's way to say that a set is empty, or has no image with a box.
        raise ValueError(
            f"AGSSP.SOLVER.EPOCHS is {epochs:g}, but DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} "
            f"has no images to pass over ({error}) Name sets with images; for those without boxes, "
            "set DATALOADER.FILTER_EMPTY_ANNOTATIONS False."
        ) from error
    num_images = len(images)
    per_epoch = num_images / cfg.SOLVER.IMS_PER_BATCH
    resolved = cfg.clone()
    resolved.defrost()
    solver = resolved.SOLVER
    solver.MAX_ITER = max(math.ceil(epochs * per_epoch), 1)
    ratio = solver.MAX_ITER / cfg.SOLVER.MAX_ITER
    solver.STEPS = tuple(round(step * ratio) for step in cfg.SOLVER.STEPS)
    solver.CHECKPOINT_PERIOD = max(round(cfg.SOLVER.CHECKPOINT_PERIOD * ratio), 1)
    if cfg.TEST.EVAL_PERIOD > 0:
        resolved.TEST.EVAL_PERIOD = max(round(cfg.TEST.EVAL_PERIOD * ratio), 1)
    if warmup_epochs:
        solver.WARMUP_ITERS = math.ceil(warmup_epochs * per_epoch)
    # Done: a run that goes on from its config.yaml is not scaled again.
    resolved.AGSSP.SOLVER.EPOCHS = 0.0
    resolved.freeze()
    logger.info(
        "%g epochs of %d images at %d per batch: MAX_ITER %d, STEPS %s, WARMUP_ITERS %d",
        *(epochs, num_images, solver.IMS_PER_BATCH),
        *(solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS),
    )
    return resolved


def install_epochs() -> None:
    """Makes every ``DefaultTrainer``, the stock train_net's too, count in epochs where told to.

    The trainer asks its static ``auto_scale_workers`` for the config that it is built from; that
    one is wrapped. KEY VALUE pairs that name ``SOLVER.MAX_ITER`` and no epochs turn a yaml's epochs
    off. Does nothing the second time.
    """
    original = DefaultTrainer.auto_scale_workers
    if getattr(original, "counts_epochs", False):
        return

    @functools.wraps(original)
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        return iterations_from_epochs(original(cfg, num_workers))

    auto_scale_workers.counts_epochs = True
    DefaultTrainer.auto_scale_workers = staticmethod(auto_scale_workers)
    merge_from_list = CfgNode.merge_from_list

    @functools.wraps(merge_from_list)
    def merge(self: CfgNode, cfg_list: list):
        result = merge_from_list(self, cfg_list)
        # Whoever counts iterations on the command line means these, not the yaml's epochs.
        keys = set(cfg_list[::2])
        if "SOLVER.MAX_ITER" in keys and "AGSSP.SOLVER.EPOCHS" not in keys and "AGSSP" in self:
            self.AGSSP.SOLVER.EPOCHS = 0.0
        return result

    CfgNode.merge_from_list = merge
