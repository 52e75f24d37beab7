"""Text features kept on disk: encoding the prompts of one object takes a CPU tens of seconds.

Shapes: D channels, K defects.
"""

import hashlib
import json
import logging
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.scoring.kead.clip_model import check_text_tower, import_open_clip
from detectron2_agssp.scoring.kead.descriptions import ObjectDescription
from detectron2_agssp.scoring.kead.prompts import (
    TextFeatures,
    Tokenizer,
    all_prompts,
    build_text_features,
)

logger = logging.getLogger(__name__)

# Part of the key; to be raised when the same prompts come to give other features.
_VERSION = 1
_ARRAYS = ("normal", "anomaly", "empty", "defects")
# What zipfile and NumPy raise on bytes that are not what they wrote.
_UNREADABLE = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/detectron2_agssp``, by default ``~/.cache/detectron2_agssp``."""
    root = Path(os.getenv("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (root if root.is_absolute() else Path.home() / ".cache") / "detectron2_agssp"


def text_weights_fingerprint(clip_model: nn.Module) -> str:
    """Hash (32 hexadecimal digits) of every weight of a CLIP model outside its vision tower."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(clip_model.state_dict().items()):
        if name.startswith(("visual.", "logit_")):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_text_features(
    clip_model: nn.Module,
    model: str,
    obj: ObjectDescription,
    *,
    cache_dir: str | Path | None = None,
    allow_download: bool = False,
) -> TextFeatures:
    """:func:`cached_text_features` with the tokenizer of the open_clip model named ``model`` and
    the fingerprint and context length of ``clip_model``.

    Raises:
        FileNotFoundError: the tokenizer comes from the hub, and ``allow_download`` is False.
        ValueError: see :func:`cached_text_features`.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model)
    check_text_tower(model, config, "hf_tokenizer_name", allow_download)
    # The same weights give other features with another activation or number of heads.
    wiring = json.dumps([config.get("quick_gelu", False), config["text_cfg"]], sort_keys=True)
    return cached_text_features(
        clip_model,
        open_clip.get_tokenizer(model),
        obj,
        weights_fingerprint=f"{text_weights_fingerprint(clip_model)} {wiring}",
        cache_dir=cache_dir,
        context_length=getattr(clip_model, "context_length", 77),
    )


def cached_text_features(
    clip_model: nn.Module,
    tokenizer: Tokenizer,
    obj: ObjectDescription,
    *,
    weights_fingerprint: str,
    cache_dir: str | Path | None = None,
    context_length: int = 77,
) -> TextFeatures:
    """:func:`build_text_features`, computed once and kept in a file.

    A file belongs to its prompts and weights, so that it never goes stale; one that cannot be read
    is made again, and a folder that cannot be written only costs a warning.

    Args:
        clip_model, tokenizer, obj, context_length: see
            :func:`~detectron2_agssp.scoring.kead.prompts.build_text_features`.
        weights_fingerprint: of the model's text side; other weights, another text.
        cache_dir: the folder; None for :func:`default_cache_dir`, ``""`` for no cache.

    Returns:
        The features, on the model's device.

    Raises:
        ValueError: no fingerprint, and whatever :func:`build_text_features` refuses.
    """
    if cache_dir == "":
        return build_text_features(clip_model, tokenizer, obj, context_length=context_length)
    if not weights_fingerprint:
        raise ValueError(
            "weights_fingerprint is empty, so that the features of different CLIP weights would "
            'share a file. Give a hash of the text weights, or cache_dir="" for no cache.'
        )
    key = text_features_key(
        obj, weights_fingerprint=weights_fingerprint, context_length=context_length
    )
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
    path = folder / f"text_{key}.npz"
    features = _read(path, obj)
    if features is None:
        features = build_text_features(clip_model, tokenizer, obj, context_length=context_length)
        _write(path, features)
    device = next(clip_model.parameters()).device
    return TextFeatures(*(tensor.to(device) for tensor in features[:4]), features.defect_names)


def text_features_key(
    obj: ObjectDescription,
    *,
    weights_fingerprint: str,
    context_length: int = 77,
) -> str:
    """Hash (40 hexadecimal digits) of everything that text features depend on."""
    content = [_VERSION, weights_fingerprint, context_length, all_prompts(obj)]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=20).hexdigest()


def _read(path: Path, obj: ObjectDescription) -> TextFeatures | None:
    """The stored features, on the CPU; None where there are none, or none that can be used."""
    try:
        # Not np.load, which takes other formats too.
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as archive:
            arrays = [archive[name] for name in _ARRAYS]
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        logger.warning("Text features in %s cannot be read (%s): making them again.", path, error)
        return None
    shape = arrays[0].shape
    expected = [shape, shape, shape, (len(obj.defects), *shape)]
    if (
        len(shape) != 1
        or [array.shape for array in arrays] != expected
        or not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
    ):
        logger.warning("Text features in %s have another form: making them again.", path)
        return None
    names = tuple(defect.name for defect in obj.defects)
    return TextFeatures(*map(torch.from_numpy, arrays), names)


def _write(path: Path, features: TextFeatures) -> None:
    arrays = {name: getattr(features, name).cpu().numpy() for name in _ARRAYS}
    try:
        with atomic_write(path, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        logger.warning(
            "Text features cannot be kept in %s (%s). Set another folder for them, or none.",
            path.parent,
            error,
        )
