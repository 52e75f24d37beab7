"""Weight files, read without running what they hold: tensors, arrays and plain values alone."""

import importlib
import io
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# What a pickle of arrays is made of, as pickled by any NumPy, and by Python 2.
_ARRAY_PARTS = {
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
}
# Where a training script or a library keeps the weights, in the order in which timm looks.
_AVERAGED = ("state_dict_ema", "model_ema")
_RAW = ("state_dict", "model", "model_state", "teacher")
WEIGHT_KEYS = (*_AVERAGED, *_RAW)
# Added by torch.compile and DistributedDataParallel, in either order.
_WRAPPERS = re.compile(r"((_orig_mod|module)\.)+")


class WeightFileError(ValueError):
    """A file that cannot be read as weights, or not without running code in it."""


def read_weight_file(path: str | Path) -> Any:
    """What a weight file holds, on the CPU.

    Args:
        path: of ``torch.save`` (any suffix), a pickle of arrays (``.pkl``, as Detectron2's ImageNet
            and model-zoo files are), or ``.safetensors``.

    Raises:
        FileNotFoundError: no such file.
        WeightFileError: it is empty, cut short, damaged or of another kind, or holds objects
            other than tensors, arrays and plain values. Nothing in it was run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weight file {str(path)!r}.")
    with open(path, "rb") as file:
        start = file.read(64)
    try:
        _check_start(path, start)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".pkl" and not start.startswith(b"PK"):
            with open(path, "rb") as file:
                return _ArrayUnpickler(file, encoding="latin1").load()
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightFileError:
        raise
    except Exception as error:
        # Damaged bytes raise whatever they meet first. Without the cause: PyTorch's advice is to
        # read the file unsafely.
        raise WeightFileError(_explanation(path, error)) from None


def is_whole(path: str | Path) -> bool:
    """Whether a file that ``torch.save`` wrote is there to its last byte: what a full disk or a
    killed process left is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # whatever the archive's directory leads to
        return False


def state_dict_of(content: Any, source: str | Path) -> dict[str, Tensor]:
    """The tensors in what :func:`read_weight_file` gave, under bare names.

    Weights under "state_dict", "model", "model_state" or "teacher", nested or not, are taken out;
    where there are averaged ones (EMA) beside them, those, as timm does. What ``torch.compile`` and
    distributed training put in front of the names is stripped; the rest of the file (optimiser,
    epoch) is left.

    Raises:
        WeightFileError: there are no tensors.
    """
    where = []
    while isinstance(content, Mapping):
        key = next((key for key in WEIGHT_KEYS if _holds_weights(content, key)), None)
        if key is None:
            break
        raw = [other for other in _RAW if key in _AVERAGED and _holds_weights(content, other)]
        if raw:
            logger.info(
                "%s holds raw weights (%r) and averaged ones (%r): taking the averaged.",
                source,
                raw[0],
                key,
            )
        where.append(key)
        content = content[key]
    if not isinstance(content, Mapping) or not any(map(_is_array, content.values())):
        place = f" under {'.'.join(where)!r}" if where else ""
        raise WeightFileError(
            f"{source} holds no weights{place}: expected names and tensors, got "
            f"{_summary(content)}. Give a checkpoint or a state dict."
        )
    if all(isinstance(value, Tensor) for value in content.values()) and not any(
        map(_WRAPPERS.match, content)
    ):
        # As it is: a model's own state dict also knows the versions of its layers.
        return content  # type: ignore[return-value]
    return {
        name[wrapper.end() :] if (wrapper := _WRAPPERS.match(name)) else name: _as_tensor(value)
        for name, value in content.items()
        if _is_array(value)
    }


def _holds_weights(content: Mapping, key: str) -> bool:
    return isinstance(content.get(key), Mapping) and len(content[key]) > 0


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    )


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def _summary(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"one {type(content).__name__}"
    return f"the keys {', '.join(map(str, list(content)[:8])) or '(none)'}"


def _check_start(path: Path, start: bytes) -> None:
    problem = ""
    if not start:
        problem = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        problem = "is a pointer of Git LFS, not the file itself (git lfs pull fetches it)"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        problem = "is a web page, not weights"
    elif start.startswith(b"PK") and not zipfile.is_zipfile(path):
        problem = "is cut short: its end is missing"
    elif start.startswith(b"PK") and _unpacked_size(path) > path.stat().st_size:
        problem = "is compressed, as torch.save never does, and could fill the memory"
    if problem:
        raise WeightFileError(f"{path} {problem}. Download or write it again.")


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _explanation(path: Path, error: Exception) -> str:
    refused = re.search(r"\b(?:GLOBAL|pickled) ([\w.]+)", str(error))
    if refused:
        return (
            f"{path} holds more than tensors, arrays and plain values ({refused.group(1)}), which "
            "could run any code, and was not read. If you trust it, re-save its state dict alone "
            "where it was made."
        )
    return (
        f"{path} cannot be read as weights: it is damaged, cut short, or another kind of file "
        f"({type(error).__name__}). Download or write it again; .pth, .pt, .safetensors and .pkl "
        "files of tensors are read."
    )


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses everything that arrays and tensors are not made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            # Its own loads whatever the bytes hold.
            return _load_storage
        if (module, name) in _ARRAY_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"pickled {module}.{name}")


def _harmless() -> list:
    """NumPy's numbers and arrays, which training scripts keep beside the weights."""
    # NumPy 1 has no underscore there.
    package = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    multiarray = importlib.import_module(f"{package}.multiarray")
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [
        np.ndarray,
        np.dtype,
        *kinds,
        *(
            (function, f"numpy.{core}.multiarray.{name}")
            for core in ("core", "_core")
            for name, function in vars(multiarray).items()
            if (f"numpy.{core}.multiarray", name) in _ARRAY_PARTS
        ),
    ]


def _load_storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
