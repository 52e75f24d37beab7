"""Judges weights before they are loaded, and says in one line what was.

Detectron2 only warns about weights that do not fit. For a pretrained backbone that is the
difference between pretraining and none.
"""

import logging
from collections.abc import Mapping

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from torch import Tensor, nn

from detectron2_agssp.checkpoint.coverage import (
    BOOKKEEPING,
    bare_backbone,
    bottom_up_of,
    bottom_up_prefix,
    check_backbone,
)
from detectron2_agssp.checkpoint.record import (
    AUTHOR,
    KEY,
    as_yaml,
    backbone_settings,
    differing_classes,
    differing_settings,
    num_classes_of,
    record_of,
)
from detectron2_agssp.modeling import AnomalyDistiller, TeacherStudent
from detectron2_agssp.modeling.teacher import detector_weights

logger = logging.getLogger(__name__)


def is_ours(checkpoint: Mapping) -> bool:
    """Whether this package wrote a checkpoint."""
    return (
        checkpoint.get("__author__") == AUTHOR
        or isinstance(checkpoint.get(KEY), dict)
        or AnomalyDistiller.MARKER in checkpoint.get("model", {})
    )


def config_of(checkpointer: DetectionCheckpointer) -> CfgNode | None:
    """The config of the trainer that Detectron2 hands to its checkpointer; a LazyConfig's has
    none."""
    cfg = getattr(checkpointer.checkpointables.get("trainer"), "cfg", None)
    return cfg if isinstance(cfg, CfgNode) else None


def load_checked(checkpointer: DetectionCheckpointer, checkpoint: dict, load):
    """``load(checkpoint)``, Detectron2's own, after the check and with one line that says what was
    loaded."""
    model, ours = checkpointer.model, is_ours(checkpoint)
    if not isinstance(model, TeacherStudent):
        checkpoint["model"] = detector_weights(checkpoint["model"])
    url = checkpointer._parsed_url_during_load
    source = f"The {'AGSSP ' if ours else ''}weights{f' {url.geturl()}' if url else ''}"
    record = checkpoint.get(KEY) if isinstance(checkpoint.get(KEY), dict) else {}
    is_backbone = bool(checkpoint.get("matching_heuristics")) and ours
    if AnomalyDistiller.MARKER in checkpoint["model"]:
        record = {**_pop_pixel_statistics(checkpoint["model"]), **record}
        is_backbone = True
    moved = record.get("prefix", "backbone.") != bottom_up_prefix(model)
    if not checkpoint.get("matching_heuristics") and (
        (is_backbone and not isinstance(model, AnomalyDistiller)) or ("prefix" in record and moved)
    ):
        _keep_backbone(checkpoint, record.get("prefix", "backbone."))
        is_backbone = True
    if checkpoint.pop("matching_heuristics", False):
        checkpointer._convert_ndarray_to_tensor(checkpoint["model"])
        checkpoint["model"] = align_and_update_state_dicts(
            model.state_dict(),
            checkpoint["model"],
            c2_conversion=checkpoint.get("__author__") == "Caffe2",
        )
    # Before anything is loaded.
    differing = differing_settings(model, record)
    coverage = check_backbone(
        model,
        checkpoint["model"],
        source=source,
        complete=getattr(checkpointer, "complete", False),
        same_model=_is_same_backbone(model, record),
        advice=_advice(record),
    )
    if differing:
        logger.warning(
            "%s were trained with other pixel statistics or other settings than this model's. Put "
            "into the config:\n%s",
            source,
            "\n".join(differing),
        )
    cfg = config_of(checkpointer)
    own_classes = record_of(model, cfg)["classes"] if cfg is not None and record else []
    if differing_classes(record, own_classes):
        logger.warning(
            "%s were trained for the classes %s; here they are %s, in this order: what was learnt "
            "of one class starts another.",
            source,
            record["classes"],
            own_classes,
        )
    incompatible = load(checkpoint)
    checkpointer.coverage = coverage
    checkpointer.has_agssp_weights = ours
    _announce(model, coverage, record, incompatible, source, is_backbone)
    return incompatible


def _announce(model, coverage, record, incompatible, source: str, is_backbone: bool) -> None:
    """Says what was loaded and what starts afresh, and why; takes what is expected out of
    ``incompatible``, about which Detectron2 would warn."""
    if AnomalyDistiller.MARKER in incompatible.missing_keys:
        # Always the model's own.
        incompatible.missing_keys.remove(AnomalyDistiller.MARKER)
    there, here = record.get("num_classes", 0), num_classes_of(model)
    afresh = [
        name
        for name, shape, own in incompatible.incorrect_shapes
        if _depends_on_classes(shape, own, there, here)
    ]
    why = ""
    if afresh:
        layers = dict.fromkeys(name.rpartition(".")[0] for name in afresh)
        why = (
            f" Start afresh, as expected with {here} classes instead of {there}: "
            f"{', '.join(layers)}."
        )
    if is_backbone and (coverage["neck"].missing or coverage["heads"].missing):
        afresh += [*coverage["neck"].missing, *coverage["heads"].missing]
        why = " The rest starts afresh, as expected: of these weights only the backbone is taken."
    parts = ", ".join(
        f"{part} ({of})" for part, of in coverage.items() if len(of.missing) < len(of.expected)
    )
    logger.info("%s: loaded %s.%s", source, parts, why)
    expected = set(afresh)
    incompatible.missing_keys[:] = [
        name
        for name in incompatible.missing_keys
        if name not in expected and not name.endswith(BOOKKEEPING)
    ]
    incompatible.incorrect_shapes[:] = [
        entry for entry in incompatible.incorrect_shapes if entry[0] not in expected
    ]
    lost = [
        f"{part} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for part in ("neck", "heads")
        if (names := [name for name in coverage[part].missing if name not in expected])
    ]
    if record and lost:
        logger.warning(
            "%s do not fit all of this detector; random remain: %s. %s",
            source,
            "; ".join(lost),
            _advice(record, "neck", "heads"),
        )


def _depends_on_classes(shape, own, there: int, here: int) -> bool:
    """Whether two shapes differ as those of a class predictor do: rows are a multiple of the
    classes, and perhaps one more, background."""
    if there == here or not there or not here or shape[1:] != own[1:]:
        return False
    return any(
        (shape[0] - background) % there == 0
        and (own[0] - background) % here == 0
        and (shape[0] - background) // there == (own[0] - background) // here
        for background in (0, 1)
    )


def _is_same_backbone(model: nn.Module, record: Mapping) -> bool:
    """Whether weights are known to be of the model's own architecture."""
    theirs = record.get("settings", {}).get("backbone", {})
    if not theirs or not hasattr(model, "backbone"):
        return False
    return theirs == backbone_settings(bottom_up_of(model.backbone))


def _advice(record: Mapping, *parts: str) -> str:
    """The settings that these weights were trained with, to be pasted."""
    settings = record.get("settings", {})
    lines = [
        f"{key}: {as_yaml(value)}"
        for part in parts or ("backbone",)
        for key, value in settings.get(part, {}).items()
    ]
    if not lines:
        return ""
    return f"They are of {record.get('backbone')} with\n" + "\n".join(lines) + "\n"


def _pop_pixel_statistics(weights: dict[str, Tensor]) -> dict:
    """Takes them out of an AGBP checkpoint, so that the config's hold, as in Detectron2's own
    models; returned as ``export_backbone`` records them."""
    is_bgr = weights.pop(AnomalyDistiller.MARKER)
    return {
        "pixel_mean": weights.pop("pixel_mean").flatten().tolist(),
        "pixel_std": weights.pop("pixel_std").flatten().tolist(),
        "format": "BGR" if is_bgr else "RGB",
    }


def _keep_backbone(checkpoint: dict, prefix: str) -> None:
    """Turns a training checkpoint into what ``export_backbone`` would have written."""
    checkpoint["model"] = bare_backbone(checkpoint["model"], prefix)
    checkpoint["matching_heuristics"] = True
