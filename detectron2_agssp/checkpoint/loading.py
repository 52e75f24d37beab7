"""Loading AGSSP weights through Detectron2's own checkpointer, with a check of what was covered.

Detectron2 only warns about weights that do not fit. For a pretrained backbone that is the
difference between pretraining and none, so files of this package raise instead. Other files load
as ever.
"""

import functools
import logging

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from detectron2_agssp.checkpoint.export import AUTHOR, bottom_up_of
from detectron2_agssp.modeling.distiller import AnomalyDistiller

logger = logging.getLogger(__name__)

# Share of the backbone's tensors that AGSSP weights must cover.
MIN_COVERAGE = 0.9


class BackboneCoverageError(ValueError):
    """AGSSP weights that do not fit the model's backbone."""


def install_coverage_check() -> None:
    """Wraps ``DetectionCheckpointer._load_model``; does nothing the second time."""
    original = DetectionCheckpointer._load_model
    if getattr(original, "checks_agssp_coverage", False):
        return

    @functools.wraps(original)
    def load_model(self, checkpoint):
        if AnomalyDistiller.MARKER in checkpoint.get("model", {}):
            checkpoint["agssp"] = _pop_pixel_statistics(checkpoint["model"])
            checkpoint["__author__"] = AUTHOR
            if not isinstance(self.model, AnomalyDistiller):
                _make_export(checkpoint)
        if checkpoint.get("__author__") == AUTHOR:
            if checkpoint.pop("matching_heuristics", False):
                checkpoint["model"] = align_and_update_state_dicts(
                    self.model.state_dict(), checkpoint["model"], c2_conversion=False
                )
            # Before anything is loaded.
            _check_coverage(self.model, checkpoint["model"])
            _compare_pixel_statistics(self.model, checkpoint.get("agssp", {}))
        incompatible = original(self, checkpoint)
        if AnomalyDistiller.MARKER in incompatible.missing_keys:
            # Always the model's own: not worth Detectron2's warning that it is missing.
            incompatible.missing_keys.remove(AnomalyDistiller.MARKER)
        return incompatible

    load_model.checks_agssp_coverage = True
    DetectionCheckpointer._load_model = load_model


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


def _backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the model's backbone, or of a model that is one, that a file should cover; by
    their full names."""
    bottom_up = bottom_up_of(getattr(model, "backbone", model))
    path = next(name for name, module in model.named_modules() if module is bottom_up)
    prefix = f"{path}." if path else ""
    return {
        f"{prefix}{name}": tensor
        for name, tensor in bottom_up.state_dict().items()
        if not name.endswith(("num_batches_tracked", "relative_position_index"))
    }


def _check_coverage(model: nn.Module, weights: dict[str, Tensor]) -> None:
    # Not from what load_state_dict calls missing: FrozenBatchNorm2d makes statistics up.
    expected = _backbone_tensors(model)
    missing = [
        name
        for name, tensor in expected.items()
        if name not in weights or weights[name].shape != tensor.shape
    ]
    coverage = 1 - len(missing) / len(expected) if expected else 0.0
    if coverage < MIN_COVERAGE:
        shown = "\n  ".join(missing[:20]) + ("\n  ..." if len(missing) > 20 else "")
        raise BackboneCoverageError(
            f"The AGSSP weights ({len(weights)} tensors) cover {coverage:.0%} of the "
            f"{len(expected)} backbone tensors of {type(model).__name__}; at least "
            f"{MIN_COVERAGE:.0%} is required, because a detector that starts from a half-filled "
            "backbone looks like one that was pretrained. Use weights of the same backbone. "
            f"Missing:\n  {shown}"
        )
    logger.info("AGSSP weights cover %.1f %% of the backbone.", 100 * coverage)


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
