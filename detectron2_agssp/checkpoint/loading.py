"""Loading AGSSP weights through Detectron2's own checkpointer, with a check of what was covered.

Detectron2 only warns about weights that do not fit. For a pretrained backbone that is the
difference between pretraining and none, so files of this package raise instead. Other files, and
resumed runs, load as ever.
"""

import functools
import logging

import torch
from detectron2.checkpoint import DetectionCheckpointer
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
        if _is_distiller_checkpoint(checkpoint, self.model):
            checkpoint = _as_export(checkpoint)
        is_export = checkpoint.get("__author__") == AUTHOR
        expected = _backbone_tensors(self.model) if is_export else {}
        offered = len(checkpoint["model"])
        incompatible = original(self, checkpoint)
        if is_export:
            _check_coverage(self.model, expected, incompatible, offered)
            _compare_pixel_statistics(self.model, checkpoint.get("agssp", {}))
        return incompatible

    load_model.checks_agssp_coverage = True
    DetectionCheckpointer._load_model = load_model


def _is_distiller_checkpoint(checkpoint: dict, model: nn.Module) -> bool:
    """A training checkpoint of an AnomalyDistiller that another kind of model is to start from."""
    return AnomalyDistiller.MARKER in checkpoint.get("model", {}) and not isinstance(
        model, AnomalyDistiller
    )


def _as_export(checkpoint: dict) -> dict:
    """An AGBP training checkpoint's backbone, as ``export_backbone`` would have written it."""
    weights = {}
    for name, tensor in checkpoint["model"].items():
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked"):
            bare = name.removeprefix("backbone.").removeprefix("bottom_up.")
            weights[bare] = tensor
    logger.info("The weights are an AGBP checkpoint: loading its backbone.")
    recorded = {
        "pixel_mean": checkpoint["model"]["pixel_mean"].flatten().tolist(),
        "pixel_std": checkpoint["model"]["pixel_std"].flatten().tolist(),
        "format": "BGR" if checkpoint["model"][AnomalyDistiller.MARKER] else "RGB",
    }
    return {
        **checkpoint,
        "model": weights,
        "matching_heuristics": True,
        "__author__": AUTHOR,
        "agssp": recorded,
    }


def _backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's backbone tensors that a file should cover, by their full names."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return {}
    bottom_up = bottom_up_of(backbone)
    prefix = next(name for name, module in model.named_modules() if module is bottom_up)
    return {
        f"{prefix}.{name}": tensor
        for name, tensor in bottom_up.state_dict().items()
        if not name.endswith(("num_batches_tracked", "relative_position_index"))
    }


def _check_coverage(model, expected, incompatible, offered: int) -> None:
    missing_names = set(incompatible.missing_keys)
    missing_names.update(name for name, *_ in incompatible.incorrect_shapes)
    missing = [name for name in expected if name in missing_names]
    coverage = 1 - len(missing) / len(expected) if expected else 0.0
    if coverage < MIN_COVERAGE:
        shown = "\n  ".join(missing[:20]) + ("\n  ..." if len(missing) > 20 else "")
        raise BackboneCoverageError(
            f"The AGSSP weights ({offered} tensors) cover {coverage:.0%} of the "
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
