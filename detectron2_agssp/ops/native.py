"""The compiled operators: finding and loading them, and which implementation runs.

The library registers its kernels with PyTorch's dispatcher (``torch.ops.detectron2_agssp``); where
it is missing or does not fit, every operator runs its pure-PyTorch reference. All is decided on
import, so that ``torch.compile`` sees constants.
"""

import importlib.machinery
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

VARIABLE = "AGSSP_OPS"
CHOICES = ("", "reference", "native")
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
OPERATORS = ("anomaly_boxes", "channel_energy", "min_cosine_distance", "text_anomaly_score")
HOW_TO_BUILD = "`pip install --no-build-isolation -e .` where there is a C++ compiler"


def library_path() -> Path | None:
    """The compiled library beside this file; None if it was not built."""
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_C{suffix}"
        if path.exists():
            return path
    return None


def _load() -> str:
    """Loads the library; "" if that worked, else why not."""
    path = library_path()
    if path is None:
        return f"not built; {HOW_TO_BUILD} builds them"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        reason = f"built for another PyTorch: {error}; {HOW_TO_BUILD} builds them again"
        logger.warning("The compiled operators are not used: %s", reason)
        return reason
    return ""


def _wanted() -> str:
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in CHOICES:
        choices = ", ".join(map(repr, CHOICES))
        raise ValueError(f"{VARIABLE} is {wanted!r}. Choices: {choices}.")
    return wanted


# "" where the library is loaded, else why it is not.
MISSING = _load()
# What AGSSP_OPS asks for: "" (native where there is one), "reference" or "native".
WANTED = _wanted()


def register_native(name: str, register: Callable[[], None]) -> frozenset[str]:
    """Called by each operator's module on import.

    Args:
        name: of the operator.
        register: registers its fake kernels and gradients; called if the library is there.

    Returns:
        The device types that have a kernel.
    """
    if MISSING:
        return frozenset()
    if not hasattr(torch.ops.detectron2_agssp, name):
        logger.warning(
            "The compiled operators are of another version, without %s; %s builds them again.",
            name,
            HOW_TO_BUILD,
        )
        return frozenset()
    register()
    return _devices(name)


def _devices(name: str) -> frozenset[str]:
    return frozenset(
        device
        for device, key in DEVICES.items()
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"detectron2_agssp::{name}", key)
    )


def compiled_devices() -> frozenset[str]:
    """The device types for which every operator was compiled."""
    if MISSING or not all(hasattr(torch.ops.detectron2_agssp, name) for name in OPERATORS):
        return frozenset()
    return frozenset.intersection(*map(_devices, OPERATORS))


def use_native(devices: frozenset[str], device: torch.device) -> bool:
    """Whether an operator with kernels for ``devices`` runs compiled on ``device``.

    Raises:
        RuntimeError: AGSSP_OPS is "native" and there is no kernel.
    """
    if WANTED == "reference":
        return False
    if WANTED == "native":
        if device.type not in devices:
            raise RuntimeError(
                f"{VARIABLE} is 'native', but this operator cannot run so on {device.type}: "
                f"{MISSING or 'the library has no such kernel'}."
            )
        return True
    return device.type in devices


def describe(devices: frozenset[str]) -> str:
    """One line for ``collect_env``, of an operator's ``devices``."""
    if MISSING:
        return f"pure PyTorch (compiled ones: {MISSING})"
    if not devices:
        return "pure PyTorch (the compiled library has no kernel of it)"
    asked = f"; {VARIABLE}={WANTED}" if WANTED else ""
    return f"compiled for {' and '.join(sorted(devices))}{asked}"
