"""The one way of weights into a model: every file is read safely, judged, and reported."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from detectron2_agssp.checkpoint.coverage import PartCoverage
from detectron2_agssp.checkpoint.judging import load_checked
from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.io.weight_files import read_weight_file, state_dict_of
from detectron2_agssp.modeling.teacher import detector_config

logger = logging.getLogger(__name__)


class _AtomicPaths:
    """A path manager whose local files are there whole or not at all."""

    def __init__(self, manager):
        self._manager = manager

    def open(self, path, mode="r", **kwargs):
        if "w" in mode and "://" not in path:
            return atomic_write(path, mode)
        return self._manager.open(path, mode, **kwargs)

    def __getattr__(self, name):
        return getattr(self._manager, name)


class CheckedCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that reads every file safely, judges it, and writes it atomically.

    Attributes:
        complete: see :func:`~detectron2_agssp.checkpoint.coverage.check_backbone`.
        coverage: of the last file that was loaded.
    """

    complete = False
    coverage: dict[str, PartCoverage] | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.path_manager = _AtomicPaths(self.path_manager)

    def _load_file(self, filename):
        if not filename.endswith((".pkl", ".pyth")):
            return super()._load_file(filename)
        content = read_weight_file(filename)
        if isinstance(content, Mapping) and {"model", "__author__"} <= content.keys():
            logger.info("Reading a file from %r.", content["__author__"])
            return {**content, "model": state_dict_of(content["model"], filename)}
        if isinstance(content, Mapping):
            content = content.get("blobs", content)
        weights = {
            name: tensor
            for name, tensor in state_dict_of(content, filename).items()
            if not name.endswith(("_momentum", "num_batches_tracked"))
        }
        # Caffe2's names, which Detectron2 then translates, have no points.
        author = "PyTorch" if any("." in name for name in weights) else "Caffe2"
        return {"model": weights, "__author__": author, "matching_heuristics": True}

    def _torch_load(self, f):
        content = read_weight_file(f)
        if isinstance(content, Mapping) and {"model", "iteration"} <= content.keys():
            # A training checkpoint of Detectron2's, from which a run may be resumed.
            weights = state_dict_of(content["model"], f)
        else:
            weights = state_dict_of(content, f)
        return {**_beside_weights(content), "model": weights}

    def _load_model(self, checkpoint):
        return load_checked(self, checkpoint, super()._load_model)


def _beside_weights(content: Mapping) -> dict:
    """What Detectron2 reads of a checkpoint beside the model; nothing of a plain state dict."""
    if "model" not in content:
        return {}
    return {name: value for name, value in content.items() if name != "model"}


def load_weights(
    model: nn.Module, path: str | Path, *, complete: bool = False
) -> dict[str, PartCoverage]:
    """Loads a weight file into a model, or raises: the one way in.

    Args:
        model: a Detectron2 model, or a module with ``backbone``, or a backbone.
        path: of a checkpoint, an export, or a file of a model zoo; also what Detectron2 resolves
            (``https://``, ``detectron2://``), with ``?matching_heuristics=True`` for bare names.
        complete: nothing random may remain in the backbone and its neck.

    Returns:
        what was covered, by "backbone", "neck" and "heads".

    Raises:
        FileNotFoundError: no such file.
        ConnectionError: a URL that cannot be reached.
        WeightFileError: a ValueError; the file is damaged or holds more than tensors and plain
            values.
        BackboneCoverageError: a ValueError; the weights are not those of the model's backbone.
    """
    name, mark, query = os.path.expanduser(str(path)).partition("?")
    name = fetch_weights(name)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"There is no checkpoint {str(path)!r}.")
    checkpointer = CheckedCheckpointer(model)
    checkpointer.complete = complete
    checkpointer.load(f"{name}{mark}{query}")
    return checkpointer.coverage


def load_trained(cfg, weights: str | Path) -> nn.Module:
    """The config's model with ``weights`` ("" for those it is built with), in evaluation mode.

    Raises:
        FileNotFoundError, BackboneCoverageError: as :func:`load_weights`, which leaves nothing of
            backbone and neck random.
    """
    if cfg.AGSSP.PRETEXT.NAME:
        # Its heads are made for the training data, and nothing here reads them.
        cfg = cfg.clone()
        cfg.defrost()
        cfg.AGSSP.PRETEXT.NAME = ""
    model = build_model(detector_config(cfg)).eval()
    if cfg.MODEL.DEVICE == "cpu":
        # Convolutions of the lite models take two thirds of the time.
        model = model.to(memory_format=torch.channels_last)
    if weights:
        load_weights(model, weights, complete=True)
    return model
