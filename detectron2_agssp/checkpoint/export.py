"""Files to go on with: a pretrained backbone, which every detector with it can start from, and a
taught detector."""

from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from detectron2_agssp.checkpoint.coverage import bare_backbone, bottom_up_of
from detectron2_agssp.checkpoint.loading import load_weights
from detectron2_agssp.checkpoint.record import AUTHOR, KEY, record_of
from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.modeling.teacher import detector_weights


def backbone_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model's backbone under bare names (``stem.conv1.weight``), on the CPU.

    Raises:
        ValueError: the model has no ``backbone``.
    """
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no .backbone to export; give a Detectron2 model built "
            "from a config (AnomalyDistiller, GeneralizedRCNN, RetinaNet, ...)."
        )
    weights = bare_backbone(bottom_up_of(model.backbone).state_dict(), "")
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def export_backbone(model: nn.Module, path: str | Path) -> Path:
    """Writes a file that any detector with this backbone takes as ``MODEL.WEIGHTS``.

    The names are bare and matched by Detectron2's own heuristics (``matching_heuristics``), so FPN,
    C4, DC5, RetinaNet, FCOS, Cascade and Mask R-CNN models load it, with this package imported or
    not. Under "agssp" the file records what the backbone was trained with; see
    :func:`~detectron2_agssp.checkpoint.record.record_of`.

    Args:
        model: a Detectron2 model with ``backbone``, ``pixel_mean`` and ``pixel_std``; in or out
            of DistributedDataParallel.
        path: ends in ``.pth``.

    Returns:
        ``path``.

    Raises:
        ValueError: no backbone in the model, or another suffix (Detectron2 reads others
            differently).
    """
    path = Path(path)
    if path.suffix != ".pth":
        raise ValueError(f"The export must end in .pth, got {str(path)!r}.")
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    weights = backbone_weights(model)
    content = {
        "model": weights,
        "matching_heuristics": True,
        "__author__": AUTHOR,
        KEY: record_of(model),
    }
    with atomic_write(path, "wb") as file:
        torch.save(content, file)
    return path


def export_teacher(model: nn.Module, path: str | Path, cfg=None) -> Path:
    """Writes the detector that teacher rounds have made, without the student and their state: a
    checkpoint like that of plain fine-tuning, which Detectron2 loads without this package.

    Args:
        model: a :class:`~detectron2_agssp.modeling.TeacherStudent`.
        path: ends in ``.pth``.
        cfg: its config, for the record.

    Returns:
        ``path``.
    """
    weights = detector_weights(model.state_dict())
    content = {
        "model": {name: tensor.detach().cpu().clone() for name, tensor in weights.items()},
        KEY: record_of(model, cfg),
    }
    with atomic_write(path, "wb") as file:
        torch.save(content, file)
    return Path(path)


def export_checkpoint(cfg, checkpoint: str | Path, path: str | Path) -> Path:
    """:func:`export_backbone` of the config's model with a checkpoint's weights, on the CPU.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or one of another backbone.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    load_weights(model, checkpoint)
    return export_backbone(model, path)
