"""The one way of weights into a model: read safely, judged, and reported in one line.

Detectron2 only warns about weights that do not fit. For a pretrained backbone that is the
difference between pretraining and none, so weights of this package raise instead, in the stock
scripts too. Other files are judged alike by :func:`load_weights` and this package's trainer, and
load in the stock scripts as ever.
"""

import functools
import logging
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.modeling import build_model
from torch import Tensor, nn

from detectron2_agssp.checkpoint.coverage import (
    PartCoverage,
    check_backbone,
)
from detectron2_agssp.checkpoint.export import AUTHOR
from detectron2_agssp.modeling.distiller import AnomalyDistiller

logger = logging.getLogger(__name__)


class CheckedCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that judges every file, not only those of this package.

    Attributes:
        complete: see :func:`~detectron2_agssp.checkpoint.coverage.check_backbone`.
        coverage: of the last file that was loaded.
    """

    complete = False
    coverage: dict[str, PartCoverage] | None = None

    def _load_model(self, checkpoint):
        return _load_checked(self, checkpoint, super()._load_model)


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
        BackboneCoverageError: a ValueError; the weights are not those of the model's backbone.
    """
    path = str(path)
    if "://" not in path and not Path(path.partition("?")[0]).is_file():
        raise FileNotFoundError(f"There is no checkpoint {path!r}.")
    checkpointer = CheckedCheckpointer(model)
    checkpointer.complete = complete
    checkpointer.load(path)
    return checkpointer.coverage


def load_trained(cfg, weights: str | Path) -> nn.Module:
    """The config's model with ``weights`` ("" for those it is built with), in evaluation mode.

    Raises:
        FileNotFoundError, BackboneCoverageError: as :func:`load_weights`, which leaves nothing of
            backbone and neck random.
    """
    model = build_model(cfg).eval()
    if cfg.MODEL.DEVICE == "cpu":
        # Convolutions of the lite models take two thirds of the time.
        model = model.to(memory_format=torch.channels_last)
    if weights:
        load_weights(model, weights, complete=True)
    return model


def install_coverage_check() -> None:
    """Wraps ``DetectionCheckpointer._load_model``; does nothing the second time."""
    original = DetectionCheckpointer._load_model
    if getattr(original, "checks_agssp_coverage", False):
        return

    @functools.wraps(original)
    def load_model(self, checkpoint):
        ours = AnomalyDistiller.MARKER in checkpoint.get("model", {})
        if isinstance(self, CheckedCheckpointer) or not (
            ours or checkpoint.get("__author__") == AUTHOR
        ):
            return original(self, checkpoint)
        return _load_checked(self, checkpoint, functools.partial(original, self))

    load_model.checks_agssp_coverage = True
    DetectionCheckpointer._load_model = load_model


def _load_checked(checkpointer: DetectionCheckpointer, checkpoint: dict, load):
    """``load(checkpoint)``, Detectron2's own, after the check and with one line that says what was
    loaded."""
    model = checkpointer.model
    if AnomalyDistiller.MARKER in checkpoint["model"]:
        checkpoint["agssp"] = _pop_pixel_statistics(checkpoint["model"])
        checkpoint["__author__"] = AUTHOR
        if not isinstance(model, AnomalyDistiller):
            _make_export(checkpoint)
    if checkpoint.pop("matching_heuristics", False):
        checkpointer._convert_ndarray_to_tensor(checkpoint["model"])
        checkpoint["model"] = align_and_update_state_dicts(
            model.state_dict(),
            checkpoint["model"],
            c2_conversion=checkpoint.get("__author__") == "Caffe2",
        )
    # Before anything is loaded.
    coverage = check_backbone(
        model,
        checkpoint["model"],
        source="The AGSSP weights" if checkpoint.get("__author__") == AUTHOR else "The weights",
        complete=getattr(checkpointer, "complete", False),
    )
    _compare_pixel_statistics(model, checkpoint.get("agssp", {}))
    incompatible = load(checkpoint)
    if AnomalyDistiller.MARKER in incompatible.missing_keys:
        # Always the model's own: not worth Detectron2's warning that it is missing.
        incompatible.missing_keys.remove(AnomalyDistiller.MARKER)
    checkpointer.coverage = coverage
    logger.info(
        "Loaded %s.", ", ".join(f"{part} ({of})" for part, of in coverage.items() if of.expected)
    )
    return incompatible


def _pop_pixel_statistics(weights: dict[str, Tensor]) -> dict:
    """Takes them out of an AGBP checkpoint, so that the config's hold, as in Detectron2's own
    models; returned as ``export_backbone`` records them."""
    is_bgr = weights.pop(AnomalyDistiller.MARKER)
    return {
        "pixel_mean": weights.pop("pixel_mean").flatten().tolist(),
        "pixel_std": weights.pop("pixel_std").flatten().tolist(),
        "format": "BGR" if is_bgr else "RGB",
    }


def _make_export(checkpoint: dict) -> None:
    """Turns an AGBP training checkpoint into what ``export_backbone`` would have written."""
    checkpoint["model"] = {
        name.removeprefix("backbone.").removeprefix("bottom_up."): tensor
        for name, tensor in checkpoint["model"].items()
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked")
    }
    checkpoint["matching_heuristics"] = True
    logger.info("The weights are an AGBP checkpoint: loading its backbone.")


def _compare_pixel_statistics(model: nn.Module, recorded: dict) -> None:
    """Warns where the detector would show the backbone other pixels than it was trained on."""
    differences = []
    for key in ("pixel_mean", "pixel_std"):
        own = getattr(model, key, None)
        if own is None or key not in recorded:
            continue
        if not torch.allclose(own.flatten().cpu(), torch.tensor(recorded[key]), atol=0.5):
            differences.append(f"MODEL.{key.upper()}: {recorded[key]}")
    own_format = getattr(model, "input_format", None)
    if own_format and recorded.get("format", own_format) != own_format:
        differences.append(f'INPUT.FORMAT: "{recorded["format"]}"')
    if differences:
        logger.warning(
            "The backbone was pretrained with other pixel statistics. Put into the config:\n%s",
            "\n".join(differences),
        )
