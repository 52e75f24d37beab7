"""AGSSP for Detectron2: importing this package is the installation.

The import extends ``get_cfg()``'s defaults with the ``AGSSP`` node, registers the
meta-architecture, backbones, anomaly scorers, mappers and data sets, opens ``agssp://`` configs
and weights, and makes Detectron2's default mapper and checkpointer honour AGSSP's keys and files.
Importing it again changes nothing, and a config without AGSSP keys behaves exactly as without the
import.
"""

import importlib
import sys
from types import FrameType

from detectron2_agssp.version import __version__

# Where each public name is; imported when it is asked for.
_PUBLIC = {
    "Pretrained": "engine.pretrain",
    "add_agssp_config": "config",
    "export_detector": "inference.export",
    "predict": "inference.predict",
    "pretrain": "engine.pretrain",
}
_IMPORT_MACHINERY = ("importlib._bootstrap", "importlib._bootstrap_external")
_ROOMS = ("boxes", "checkpoint", "data", "evaluation", "maps", "modeling", "ops", "scoring")

__all__ = ["__version__", "install", *_PUBLIC, *_ROOMS]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # For completion: what is imported only when it is asked for is not among the globals.
    return sorted({*globals(), *__all__})


def install() -> None:
    """What importing the package does; idempotent.

    Raises:
        ImportError: torch, Detectron2, or another package is missing.
    """
    try:
        from detectron2_agssp import plugin
    except ModuleNotFoundError as error:
        raise ImportError(
            f"detectron2_agssp needs {error.name}, which is not installed. `agssp info` lists what "
            "is missing, and the command that adds it.",
            name=error.name,
        ) from error
    plugin.install()


def _imported_by_the_command() -> bool:
    """Whether ``agssp``, or Python on its way to this package's ``__main__``, imports it: the
    command reads its arguments first and installs then, so that a help need not wait for torch,
    and ``agssp info`` runs where that is missing."""
    frame: FrameType | None = sys._getframe(1)
    # Code that is run by exec() may have no name.
    while frame and frame.f_globals.get("__name__") in (__name__, *_IMPORT_MACHINERY):
        frame = frame.f_back
    importer = frame.f_globals.get("__name__", "") if frame else ""
    # While Python looks for the module of -m, and only then, the name of the program is "-m".
    return importer == "agssp_cli" or (importer == "runpy" and sys.argv[:1] == ["-m"])


if not _imported_by_the_command():
    install()
