"""What a map folder remembers of the scorer that made it, and getting it back."""

import dataclasses
import hashlib
import json
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg

from detectron2_agssp.config import settings_of
from detectron2_agssp.maps.calibration import Calibration
from detectron2_agssp.maps.store import START_ANEW, MapStore
from detectron2_agssp.maps.windows import Window
from detectron2_agssp.scoring.base import AnomalyScorer
from detectron2_agssp.scoring.build import build_anomaly_scorer
from detectron2_agssp.scoring.ensemble import member_name
from detectron2_agssp.utils.differences import differences

# Settings that change neither what is computed nor its order.
RUNTIME_KEYS = ("BATCH_SIZE", "DEVICE", "NUM_WORKERS")
# Of MODEL, what a backbone of Detectron2's is built from; and of AGSSP.
OWN_BACKBONE_KEYS = ("CSPDARKNET", "SWIN", "TIMM", "VIT")
BACKBONE_KEYS = ("BACKBONE", "FPN", "PIXEL_MEAN", "PIXEL_STD", "RESNETS")


def record_scorer(
    cfg,
    scorer: AnomalyScorer,
    calibration: Calibration,
    store: MapStore,
    image_root: str,
    windows: Iterable[Window] = (),
) -> None:
    """Writes the fitted scorer into a map folder: settings, fingerprint, calibration, arrays, and
    the calm windows that it was fitted on."""
    info = {
        **_settings(cfg),
        "image_root": image_root,
        "scorer": cfg.AGSSP.SCORER.NAME,
        "fingerprint": _fingerprint(scorer),
        "calibration": calibration.as_json(),
    }
    if recorded := [dataclasses.asdict(window) for window in windows]:
        info["calm_windows"] = recorded
    if cfg.AGSSP.SCORER.FEATURES == "detectron2":
        # Not compared, as the fingerprint is; for those who have no config at hand.
        info["weights"] = _place_of(cfg.MODEL.WEIGHTS)
        info["INPUT"] = {"FORMAT": cfg.INPUT.FORMAT}
        info["AGSSP"] = {key: settings_of(cfg.AGSSP[key]) for key in OWN_BACKBONE_KEYS}
    learned = {name: tensor.cpu().numpy() for name, tensor in scorer.learned_state().items()}
    store.write_scorer(info, learned)


def restore_scorer(
    cfg, scorer: AnomalyScorer, store: MapStore, image_root: str | None = None
) -> Calibration | None:
    """Loads a map folder's fitted state into ``scorer``; None where there is none yet.

    Args:
        cfg: must have the settings that the folder was made with.
        scorer: built from ``cfg``, unfitted.
        store: the map folder.
        image_root: must be the folder's, unless None.

    Raises:
        ValueError: other settings (the difference is shown), or other weights.
    """
    info = store.read_scorer()
    if info is None:
        return None
    expected = _settings(cfg)
    if image_root is not None:
        expected["image_root"] = image_root
    calibration = _calibration(info, store)
    # A key that did not exist when the folder was made had, in effect, its default.
    recorded = _with_defaults({key: info.get(key) for key in expected}, _default_settings(cfg))
    different = [
        f"{key}: {old!r} there, {new!r} now" for key, old, new in differences(recorded, expected)
    ]
    if different:
        raise ValueError(
            f"{store.root} holds maps made with other settings:\n  "
            + "\n  ".join(different)
            + "\nChoose another output folder, or delete this one to make its maps anew."
        )
    state = {name: torch.from_numpy(array) for name, array in store.read_scorer_state().items()}
    try:
        scorer.load_learned_state(state)
    except ValueError as error:
        raise ValueError(f"{store.state_path} is damaged: {error} {START_ANEW}") from error
    if _fingerprint(scorer) != info["fingerprint"]:
        raise ValueError(
            f"The scorer's weights are not those that {store.root} was made with (fingerprint "
            f"{_fingerprint(scorer)}, recorded {info['fingerprint']}). "
            + (f"Those were {info['weights']} (MODEL.WEIGHTS). " if info.get("weights") else "")
            + "Choose another folder."
        )
    return calibration


def load_fitted_scorer(cfg, map_root: str | Path) -> tuple[AnomalyScorer, Calibration]:
    """The scorer and calibration that a map folder was made with, to score other images.

    Args:
        cfg: the config that the folder was made with.
        map_root: the map folder.

    Raises:
        FileNotFoundError: the folder has no scorer.
        ValueError: it was made with other settings (the difference is shown).
    """
    store = MapStore(map_root)
    scorer = build_anomaly_scorer(cfg)
    calibration = restore_scorer(cfg, scorer, store)
    if calibration is None:
        raise FileNotFoundError(f"{store.scorer_path} does not exist: not a map folder.")
    return scorer, calibration


def recorded_config(cfg, map_root: str | Path):
    """A copy of ``cfg`` with the settings that a map folder's scorer was built with, so that it can
    be loaded whatever config is at hand. The ``MODEL.WEIGHTS`` of a Detectron2 backbone are those
    of ``cfg`` or, where it has none, the recorded file while it is there.

    Raises:
        FileNotFoundError: the folder has no scorer.
    """
    store = MapStore(map_root)
    info = store.read_scorer()
    if info is None:
        raise FileNotFoundError(f"{store.scorer_path} does not exist: not a map folder.")
    cfg = cfg.clone()
    cfg.defrost()
    try:
        for node, keys in (
            (cfg.AGSSP, ("SCORER", "CALIBRATION")),
            (cfg.AGSSP.INPUT, ("BIT_DEPTH", "FLOAT_MAX")),
            (cfg.MODEL, BACKBONE_KEYS),
            (cfg, ("AGSSP", "INPUT")),
        ):
            _take(node, {key: info[key] for key in keys if key in info})
    except ValueError as error:
        raise ValueError(f"{store.scorer_path} is damaged: {error}. {START_ANEW}") from error
    weights = info.get("weights")
    # Of files only, not of URLs: the folder may be another's. The fingerprint tells whether they
    # are still the same.
    if not cfg.MODEL.WEIGHTS and isinstance(weights, str) and os.path.isfile(weights):
        cfg.MODEL.WEIGHTS = weights
    return cfg


def _place_of(weights: str) -> str:
    """The same from any working folder."""
    path = os.path.abspath(os.path.expanduser(weights))
    return path if weights and os.path.isfile(path) else weights


def _take(node, recorded: dict) -> None:
    for key, value in recorded.items():
        if key not in node:
            continue
        # As JSON has it.
        kinds = {tuple: (list,), float: (int, float)}.get(type(node[key]), (type(node[key]),))
        if isinstance(node[key], CfgNode) and isinstance(value, dict):
            _take(node[key], value)
        elif type(value) in kinds:
            node[key] = tuple(value) if isinstance(node[key], tuple) else value
        else:
            raise ValueError(f"{key} is {reprlib.repr(value)}")


def _calibration(info: dict, store: MapStore) -> Calibration:
    calibration = info.get("calibration", {})
    if "fingerprint" not in info or not {"low", "high"} <= calibration.keys():
        raise ValueError(
            f"{store.scorer_path} is damaged: it needs a fingerprint and a calibration with low "
            f"and high. {START_ANEW}"
        )
    return Calibration.from_json(calibration)


def _settings(cfg) -> dict:
    scorer = settings_of(cfg.AGSSP.SCORER)
    for key in RUNTIME_KEYS:
        scorer.pop(key)
    # Of the scorers' own nodes only those that count here; CLIP's features are under KEAD.
    used = {scorer["NAME"].upper(), "KEAD" if scorer["FEATURES"] == "clip" else ""}
    if scorer["NAME"] == "ensemble":
        used |= {member_name(member).upper() for member in scorer["ENSEMBLE"]["MEMBERS"]}
    for key in [key for key, value in scorer.items() if isinstance(value, dict)]:
        if key not in used:
            scorer.pop(key)
    backbone = {}
    if scorer["FEATURES"] == "detectron2":
        backbone = {key: cfg.MODEL[key] for key in BACKBONE_KEYS}
    return {
        # As JSON gives it back: tuples as lists, however deep.
        **json.loads(json.dumps(backbone)),
        "SCORER": scorer,
        "CALIBRATION": settings_of(cfg.AGSSP.CALIBRATION),
        "BIT_DEPTH": cfg.AGSSP.INPUT.BIT_DEPTH,
        "FLOAT_MAX": cfg.AGSSP.INPUT.FLOAT_MAX,
    }


def _default_settings(cfg) -> dict:
    defaults = get_cfg()
    for key in ("NAME", "FEATURES"):
        defaults.AGSSP.SCORER[key] = cfg.AGSSP.SCORER[key]
    # They say whose settings count.
    defaults.AGSSP.SCORER.ENSEMBLE.MEMBERS = cfg.AGSSP.SCORER.ENSEMBLE.MEMBERS
    return _settings(defaults)


def _with_defaults(recorded: dict, defaults: dict) -> dict:
    filled = dict(recorded)
    for key, default in defaults.items():
        if key not in filled:
            filled[key] = default
        elif isinstance(default, dict) and isinstance(filled[key], dict):
            filled[key] = _with_defaults(filled[key], default)
    return filled


def _fingerprint(scorer: AnomalyScorer) -> str:
    """Hash of everything the scorer computes with: weights, statistics, what it learned."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(scorer.computed_with().items()):
        digest.update(name.encode())
        # As bytes: NumPy has no bfloat16.
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
