"""Detectron2's own checkpointer, taught to judge and to record what is AGSSP's, so that the stock
scripts do. Other files load and are written as ever."""

import functools
import logging

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from detectron2_agssp.checkpoint.coverage import bottom_up_of
from detectron2_agssp.checkpoint.judging import config_of, is_ours, load_checked
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.checkpoint.record import (
    KEY,
    belongs_to_agssp,
    can_be_recorded,
    record_of,
)
from detectron2_agssp.modeling import TimmBackbone

logger = logging.getLogger(__name__)


def install_coverage_check() -> None:
    """Wraps ``load``, ``_load_model`` and ``save`` of ``DetectionCheckpointer``; does nothing the
    second time."""
    if getattr(DetectionCheckpointer._load_model, "checks_agssp_coverage", False):
        return
    original_load = DetectionCheckpointer.load
    original_load_model = DetectionCheckpointer._load_model
    original_save = DetectionCheckpointer.save

    @functools.wraps(original_load)
    def load(self, path, *args, **kwargs):
        beside = original_load(self, path, *args, **kwargs)
        if not path:
            _say_what_it_was_built_with(self.model)
        return beside

    @functools.wraps(original_load_model)
    def load_model(self, checkpoint):
        if isinstance(self, CheckedCheckpointer) or not is_ours(checkpoint):
            return original_load_model(self, checkpoint)
        return load_checked(self, checkpoint, functools.partial(original_load_model, self))

    @functools.wraps(original_save)
    def save(self, name, **kwargs):
        cfg = config_of(self)
        always = isinstance(self, CheckedCheckpointer) or getattr(self, "has_agssp_weights", False)
        if can_be_recorded(self.model) and (always or belongs_to_agssp(self.model, cfg)):
            kwargs.setdefault(KEY, record_of(self.model, cfg))
        return original_save(self, name, **kwargs)

    load_model.checks_agssp_coverage = True
    DetectionCheckpointer.load = load
    DetectionCheckpointer._load_model = load_model
    DetectionCheckpointer.save = save


def _say_what_it_was_built_with(model: nn.Module) -> None:
    """Detectron2 has said just before that the model is initialised from scratch."""
    bottom_up = bottom_up_of(getattr(model, "backbone", model))
    if isinstance(bottom_up, TimmBackbone) and bottom_up.weights:
        logger.info(
            "The backbone is not from scratch: %r was built with the weights %r "
            "(AGSSP.TIMM.WEIGHTS). All else is.",
            bottom_up.model_name,
            bottom_up.weights,
        )
