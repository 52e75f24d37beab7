"""A trained detector and what belongs to it, found by the folder of its training run or by its
weight file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from detectron2_agssp.checkpoint.loading import load_trained, load_weights
from detectron2_agssp.checkpoint.record import KEY, num_classes_of
from detectron2_agssp.evaluation.operating_point import stored_threshold
from detectron2_agssp.io.config_reading import read_config, use_available_device
from detectron2_agssp.io.files import read_text, user_path
from detectron2_agssp.io.weight_files import read_weight_file
from detectron2_agssp.modeling import AnomalyDistiller
from detectron2_agssp.modeling.teacher import detector_config

# What validation found best comes first.
_WEIGHTS = ("model_best.pth", "model_final.pth")
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Run:
    """A detector that was trained, with all that it is used with.

    Attributes:
        cfg: of its training, frozen; ``MODEL.DEVICE`` is one that is there.
        weights: its file.
        classes: their names, in the order of the model's.
        threshold: score of the best F1 on its validation set, in [0, 1]; None where none is stored
            with these weights.
    """

    cfg: CfgNode
    weights: Path
    classes: tuple[str, ...]
    threshold: float | None = None

    def build_model(self) -> nn.Module:
        """The detector in evaluation mode, all of it loaded.

        Raises:
            ValueError: the weights are not those of the config's model, or it has another number of
                classes than there are names.
        """
        model = load_trained(self.cfg, "")
        missing = load_weights(model, self.weights, complete=True)["heads"].missing
        if missing:
            raise ValueError(
                f"{self.weights} does not have all of the detector of {_config_of(self.weights)}: "
                f"{', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''} would be random. "
                "They are of two runs, or the weights of a stage before fine-tuning."
            )
        count = num_classes_of(model)
        if count and count != len(self.classes):
            raise ValueError(
                f"The detector of {self.weights} has {count} classes, but there are the names "
                f"{', '.join(self.classes)}. Name them all: AGSSP.PREDICT.CLASSES "
                "\"('scratch', 'pit')\", in the order of training."
            )
        return model


def open_run(run: str | Path, options: Sequence[str] = ()) -> Run:
    """Finds the config, the weights and the classes of a trained detector; builds nothing yet.

    Args:
        run: output folder of a training, with its ``config.yaml`` and ``model_best.pth``, otherwise
            ``model_final.pth``; or a weight file beside a ``config.yaml``.
        options: KEY VALUE pairs that override the config.

    Raises:
        FileNotFoundError: the folder, its weights or its config is missing; says which.
        ValueError: a file that cannot be read; no detector; classes without names, or two lists of
            them that differ.
    """
    weights = _weights_of(user_path(run))
    cfg = _read_config(_config_of(weights), options)
    if AnomalyDistiller.__name__ == cfg.MODEL.META_ARCHITECTURE:
        raise ValueError(
            f"{weights.parent} is a run of AGBP, which trains a backbone and no detector. Name the "
            "run of a detector, that is of AGDP or of fine-tuning."
        )
    # All comes from the weight file.
    cfg.MODEL.WEIGHTS = cfg.AGSSP.TIMM.WEIGHTS = ""
    use_available_device(cfg)
    cfg = detector_config(cfg)
    cfg.freeze()
    content = read_weight_file(weights)
    record = content.get(KEY) if isinstance(content, Mapping) else None
    classes = _class_names(cfg, record if isinstance(record, dict) else {}, weights)
    return Run(cfg, weights, tuple(classes), stored_threshold(weights))


def _weights_of(path: Path) -> Path:
    if path.is_file():
        if path.suffix in (".yaml", ".yml", ".json"):
            raise ValueError(f"{path} holds no weights. Name its folder, or the weight file.")
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"There is no run {path}: neither a folder nor a weight file.")
    for name in _WEIGHTS:
        if (path / name).is_file():
            return path / name
    inside = [sub for sub in sorted(path.iterdir()) if (sub / _WEIGHTS[-1]).is_file()]
    unfinished = sorted(path.glob("model_[0-9]*.pth"))
    hint = "It is no output folder of agssp train, or its training did not come to its end."
    if inside:
        hint = f"There are weights in {', '.join(sub.name for sub in inside)}: name that folder."
    elif unfinished:
        hint = f"Its training did not come to its end; it has got to {unfinished[-1]}."
    raise FileNotFoundError(f"{path} has neither {' nor '.join(_WEIGHTS)}. {hint}")


def _config_of(weights: Path) -> Path:
    return weights.with_name(CONFIG)


def _read_config(path: Path, options: Sequence[str]) -> CfgNode:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: without its config, weights do not say what detector they are "
            "of. Put the config that they were trained with there; a training leaves it in its "
            "output folder."
        )
    if "_target_:" in read_text(path):
        raise ValueError(
            f"{path} is a LazyConfig, whose models only its own program can build. Write a yaml "
            f"config of the same detector (see configs/finetune) into {path.parent}."
        )
    return read_config(path, options)


def _class_names(cfg: CfgNode, record: Mapping[str, Any], weights: Path) -> Sequence[str]:
    """As given, or as recorded with the weights, or as the labels of the training say."""
    if cfg.AGSSP.PREDICT.CLASSES:
        return cfg.AGSSP.PREDICT.CLASSES
    recorded = record.get("classes") or []
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    labelled = MetadataCatalog.get(name).get("thing_classes", []) if name in MetadataCatalog else []
    way_out = "Name them: AGSSP.PREDICT.CLASSES \"('scratch', 'pit')\", in the order of training."
    if recorded and labelled and recorded != labelled:
        raise ValueError(
            f"{weights} was trained for the classes {', '.join(recorded)}, but in the labels of "
            f"{name} they are {', '.join(labelled)}: renamed since, or another data set. {way_out}"
        )
    if not recorded and not labelled:
        raise ValueError(
            f"The names of the classes of {weights} are missing: they are not recorded with the "
            f"weights, and its training data, {name or 'DATASETS.TRAIN'}, are not registered here. "
            f"{way_out}"
        )
    return recorded or labelled
