"""A fine-tuning yaml for a user's own labels, on the shipped config of a detector: what weights do
not tell by themselves (pixel statistics, channel order, classes, data) is taken from where it is
recorded."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detectron2_agssp.checkpoint.loading import load_weights
from detectron2_agssp.checkpoint.record import KEY, differing_settings
from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.data.own_labels import (
    MIN_IMAGES_TO_SPLIT,
    draw_validation,
    read_own_labels,
)
from detectron2_agssp.io.coco import check_same_categories, write_coco
from detectron2_agssp.io.config_files import config_names
from detectron2_agssp.io.config_reading import read_config
from detectron2_agssp.io.files import atomic_write, user_path
from detectron2_agssp.io.weight_files import read_weight_file
from detectron2_agssp.modeling import AnomalyDistiller
from detectron2_agssp.modeling.teacher import detector_config
from detectron2_agssp.utils.suggestions import did_you_mean

DEFAULT_DETECTOR = "faster_rcnn_lite0_fpn"
# Passes over the labels, at least; a shipped config's iterations are those of few images.
MIN_EPOCHS = 16
# What decides a model, but for what fine-tuning chooses itself.
_ARCHITECTURE = re.compile(r"MODEL\.|AGSSP\.(TIMM|SWIN|VIT|CSPDARKNET|PAFPN|FCOS|YOLO|DINO)\.")
_CHOSEN_HERE = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.BACKBONE.FREEZE_AT", "AGSSP.TIMM.WEIGHTS")
# In this order: what validation found best comes first.
_ENDS = ("best", "final")
_FAMILIES = ("timm", "swin", "vit", "cspdarknet", "resnet")


class _Dumper(yaml.SafeDumper):
    """Lists in one line, keys in lines of their own."""

    def represent_sequence(self, tag, sequence, flow_style=None):
        return super().represent_sequence(tag, sequence, flow_style=True)


@dataclass(frozen=True)
class Scaffold:
    """What :func:`write_finetuning_config` wrote.

    Attributes:
        config_file: the yaml, absolute.
        detector: the config that it is based on.
        classes: in the order of the model's.
        images: of training and validation.
        loaded: the weights, and what of the model they cover; "" without a run.
        notes: what was changed or is odd, a sentence each.
    """

    config_file: Path
    detector: str
    classes: list[str]
    images: dict[str, int]
    loaded: str = ""
    notes: list[str] = field(default_factory=list)


def write_finetuning_config(
    config_file: str | Path,
    labels: str | Path,
    *,
    images: str | Path | None = None,
    run: str | Path | None = None,
    validation: str | Path | None = None,
    detector: str = "",
) -> Scaffold:
    """Writes a yaml that fine-tunes a detector on own labels, and its data as
    ``<yaml>_train.json`` and ``<yaml>_val.json`` beside it.

    The weights are loaded once, so that what does not fit is said now.

    Args:
        config_file: the yaml to write.
        labels: a COCO json.
        images: what its file names are relative to; as
            :func:`~detectron2_agssp.data.own_labels.read_own_labels`.
        run: folder of :func:`~detectron2_agssp.pretrain` or of a training, or a weight file of
            one, also ``agssp://zoo/NAME.pth``. None: the shipped config's own weights.
        validation: a COCO json; None draws a fifth of the images.
        detector: a name of ``configs/finetune``; "" takes that of ``run``.

    Raises:
        FileNotFoundError: a file, a run's weights, or images are missing.
        ValueError: the yaml exists, labels that cannot be trained on, weights without a record or
            of another detector.
    """
    path = user_path(config_file).resolve()
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"A config's name ends in .yaml, got {config_file}.")
    if path.exists():
        raise ValueError(f"{path} is there already. Name another file, or delete it.")
    sets, entries, notes = _data(path, labels, images, validation)
    weights, record, names = _read_run(run) if run is not None else (None, {}, ())
    detector = detector or (_detector_of(record, names) if weights else DEFAULT_DETECTOR)
    base = read_config(_base(detector))
    classes = sorted(sets["train"]["categories"], key=lambda entry: entry["id"])
    settings: dict[str, Any] = {_classes_key(base): len(classes)}
    if weights:
        settings |= _settings_of(base, weights, record, settings)
        # A name or a URL means the same elsewhere, where a path would not.
        settings["MODEL.WEIGHTS"] = str(run if "://" in str(run) else weights)
    settings |= {
        "DATASETS.TRAIN": [entries[0][0]],
        "DATASETS.TEST": [name for name, *_ in entries[1:]],
        "AGSSP.DATA.COCO": entries,
        "OUTPUT_DIR": str(path.with_suffix("")),
    }
    if "val" not in sets:
        # Too few to take some for validation: nothing is the best.
        settings["AGSSP.SOLVER.BEST_METRIC"] = ""
    solver = base.SOLVER
    passes = solver.MAX_ITER * solver.IMS_PER_BATCH / len(sets["train"]["images"])
    if not base.AGSSP.SOLVER.EPOCHS and passes < MIN_EPOCHS:
        settings["AGSSP.SOLVER.EPOCHS"] = float(MIN_EPOCHS)
    cfg = _merged(detector, settings)
    loaded = ""
    if weights:
        parts = load_weights(build_model(cfg), weights).items()
        covered = [f"{part} ({of})" for part, of in parts if of.share > 0]
        loaded = f"{weights} loads {', '.join(covered)}; what depends on the classes starts afresh."
    for (_, json_file, _), coco in zip(entries, sets.values(), strict=True):
        write_coco(json_file, coco)
    with atomic_write(path) as file:
        file.write(
            f"# Fine-tunes on {user_path(labels).resolve()}, as copied beside this file.\n"
            + (f"# Starts from {weights}.\n" if weights else "")
            + f'_BASE_: "{_base(detector)}"\n'
            + yaml.dump(
                _nested(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
            )
        )
    counts = {name: len(coco["images"]) for name, coco in sets.items()}
    return Scaffold(path, detector, [entry["name"] for entry in classes], counts, loaded, notes)


def _data(
    path: Path, labels: str | Path, images: str | Path | None, validation: str | Path | None
) -> tuple[dict[str, dict], list[list[str]], list[str]]:
    """COCO dicts by "train" and "val", their entries of ``AGSSP.DATA.COCO``, and notes."""
    coco, root, notes = read_own_labels(labels, images)
    sets, roots = {"train": coco}, [root, root]
    if validation is not None:
        sets["val"], roots[1], more = read_own_labels(validation, images)
        check_same_categories({str(labels): coco, str(validation): sets["val"]})
        files = [{root / image["file_name"] for image in coco["images"]}]
        files.append({roots[1] / image["file_name"] for image in sets["val"]["images"]})
        if both := sorted(files[0] & files[1]):
            raise ValueError(
                f"{len(both)} images are both in {labels} and in {validation}, such as {both[0]}: "
                "what is learned by heart would be taken for good. Take them out of one."
            )
        notes += [note for note in more if note not in notes]
    elif len(coco["images"]) < MIN_IMAGES_TO_SPLIT:
        notes.append(
            f"{len(coco['images'])} images are too few to take some for validation: there is no "
            "figure of how good the detector is. --val names labels that have one."
        )
    else:
        sets["train"], sets["val"] = draw_validation(coco)
    entries = [
        [f"{path.stem}_{name}", str(path.with_name(f"{path.stem}_{name}.json")), str(root)]
        for (name, root) in zip(sets, roots, strict=False)
    ]
    return sets, entries, notes


def _read_run(run: str | Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Weight file, its record, and the names of its tensors."""
    root = user_path(fetch_weights(str(run))).resolve()
    places = [root / sub / f"model_{which}.pth" for sub in ("", "agdp") for which in _ENDS]
    path = root if root.is_file() else next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{root} has no weights ({', '.join(str(p.relative_to(root)) for p in places)}): it is "
            "no run of agssp pretrain or agssp train that came to its end."
        )
    content = read_weight_file(path)
    record = content.get(KEY) if isinstance(content, Mapping) else None
    if not isinstance(record, dict) or "settings" not in record:
        raise ValueError(
            f"{path} has no record of what it was trained with, so that nothing can be taken from "
            "it. Name a run of agssp pretrain or agssp train; for other weights, leave --from out "
            "and set MODEL.WEIGHTS, PIXEL_MEAN, PIXEL_STD and INPUT.FORMAT yourself."
        )
    return path, record, list(content["model"])


def _detector_of(record: Mapping[str, Any], names: list[str]) -> str:
    """The shipped config that is nearest to what weights were trained as."""
    heads = record["settings"].get("heads", {})
    is_backbone = heads.get("MODEL.META_ARCHITECTURE") == AnomalyDistiller.__name__
    masks = any(name.startswith("roi_heads.mask") for name in names)
    theirs = {**record["settings"].get("backbone", {}), **record["settings"].get("neck", {})}
    family = _family(f"{list(theirs)} {record['backbone']}")
    nearest: list[tuple[int, bool, str]] = []
    for detector in _detectors():
        cfg = read_config(_base(detector))
        keys = dict(_flat(cfg))
        if _family(cfg.MODEL.BACKBONE.NAME) != family:
            continue
        same_heads = masks == cfg.MODEL.MASK_ON and all(
            keys.get(key) == value for key, value in heads.items() if "ANCHOR" not in key
        )
        if same_heads or is_backbone:
            equal = sum(keys.get(key) == value for key, value in theirs.items())
            # A backbone alone fits several: the method's own is the first choice.
            nearest.append((-equal, not detector.startswith("faster_rcnn"), detector))
    if not nearest:
        raise ValueError(
            f"No config of configs/finetune has the heads of these weights "
            f"({heads.get('MODEL.META_ARCHITECTURE')}) on their backbone ({family}). Name one by "
            "--detector to take the backbone alone."
        )
    return min(nearest)[-1]


def _family(builder: str) -> str:
    return next((family for family in _FAMILIES if family in builder.lower()), builder)


def _detectors() -> list[str]:
    return [name[9:-5] for name in config_names() if name.startswith("finetune/")]


def _base(detector: str) -> str:
    names = _detectors()
    if detector not in names:
        hint = did_you_mean(detector, names) or f" There are: {', '.join(names)}."
        raise ValueError(f"There is no detector {detector!r} in configs/finetune.{hint}")
    return f"agssp://finetune/{detector}.yaml"


def _classes_key(cfg: CfgNode) -> str:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "GeneralizedRCNN":
        return "MODEL.ROI_HEADS.NUM_CLASSES"
    owner = "MODEL" if architecture == "RetinaNet" else "AGSSP"
    return f"{owner}.{architecture.upper()}.NUM_CLASSES"


def _settings_of(
    base: CfgNode, weights: Path, record: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Keys that make the base config's model what the weights were trained as."""
    settings: dict[str, Any] = {
        "MODEL.PIXEL_MEAN": [round(value, 4) for value in record["pixel_mean"]],
        "MODEL.PIXEL_STD": [round(value, 4) for value in record["pixel_std"]],
        "INPUT.FORMAT": record["format"],
        **record["settings"].get("neck", {}),
    }
    own = dict(_flat(base))
    beside = weights.with_name("config.yaml")
    if beside.is_file():
        run = detector_config(read_config(beside))
        if run.MODEL.META_ARCHITECTURE == base.MODEL.META_ARCHITECTURE:
            settings |= {
                key: value
                for key, value in _flat(run)
                if _ARCHITECTURE.match(key)
                and value != own.get(key)
                and key not in (*settings, *_CHOSEN_HERE)
                and not key.endswith("NUM_CLASSES")
            }
    detector = base.clone()
    bare = {"MODEL.DEVICE": "cpu", "AGSSP.TIMM.WEIGHTS": ""}
    for key, value in {**settings, **chosen, **bare}.items():
        detector.merge_from_list([key, value])
    for line in differing_settings(build_model(detector), record):
        key, _, value = line.partition(": ")
        settings[key] = yaml.safe_load(value)
    if settings.get("AGSSP.TIMM.MODEL", base.AGSSP.TIMM.MODEL) != base.AGSSP.TIMM.MODEL:
        # The base's are of another model; these come from MODEL.WEIGHTS.
        settings["AGSSP.TIMM.WEIGHTS"] = ""
    return settings


def _merged(detector: str, settings: Mapping[str, Any]) -> CfgNode:
    """The config as it will be read, on the CPU."""
    cfg = read_config(_base(detector))
    for key, value in {**settings, "MODEL.DEVICE": "cpu"}.items():
        cfg.merge_from_list([key, value])
    return cfg


def _flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> Any:
    """Tuples as lists, as in yaml."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _nested(settings: Mapping[str, Any]) -> dict:
    nested: dict = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _plain(value)
    return nested
