"""The configs that come with the package, and ``agssp://``, which names them wherever Detectron2
reads a file: ``agssp://agbp/R50.yaml``."""

import logging
import os
import posixpath
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathHandler, PathManager
from fvcore.common.file_io import PathManager as fvcore_path_manager
from iopath.common.file_io import g_pathmgr

from detectron2_agssp.utils.suggestions import did_you_mean

PREFIX = "agssp://"


def config_root() -> Path:
    """Folder of the shipped configs: the package's own in a wheel, in a checkout that beside it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Every shipped config, as ``config_path`` takes it: ``["agbp/R50.yaml", ...]``."""
    root = config_root()
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts
    )


def config_path(name: str) -> Path:
    """File of a shipped config, such as ``"agbp/R50.yaml"`` or ``"agssp://agbp/R50.yaml"``.

    Raises:
        FileNotFoundError: there is none of that name; the message names the nearest.
    """
    inside = _inside(name)
    path = config_root() / inside
    if path.is_file():
        return path
    names = config_names()
    hint = did_you_mean(f"{PREFIX}{inside}", (f"{PREFIX}{name}" for name in names), cutoff=0.7)
    if not hint:
        hint = (
            f" There are configs in: {', '.join(sorted({name.split('/')[0] for name in names}))}."
        )
    raise FileNotFoundError(f"There is no shipped config {PREFIX}{inside}.{hint}")


def _inside(name: str) -> str:
    """Path below the root, without ``..``; a name that leads out of the root is refused."""
    inside = posixpath.normpath(name.removeprefix(PREFIX).replace(os.sep, "/"))
    if inside.startswith(("../", "/")) or inside == "..":
        raise FileNotFoundError(f"{name} leads out of the shipped configs.")
    return inside


class ConfigHandler(PathHandler):
    """Opens ``agssp://`` for iopath's path managers, for reading."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(config_path(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        if set(mode) - set("rbt"):
            raise ValueError(f"{path} is shipped with the package: it can be read, not written.")
        return open(config_path(path), mode, **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return (config_root() / _inside(path)).exists()

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            return config_path(path).is_file()
        except FileNotFoundError as error:
            # Callers turn False into an error of their own, which lacks the nearest name.
            logging.getLogger(__name__).warning(error)
            return False

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return (config_root() / _inside(path)).is_dir()

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        return sorted(os.listdir(config_root() / _inside(path)))


def _open_cfg(filename: str):
    """Opens a config for ``CfgNode``, which takes a ``_BASE_: agssp://...`` for a relative path and
    joins it to the folder of the file that names it."""
    start = filename.rfind(PREFIX)
    return PathManager.open(filename[max(start, 0) :], "r")


def install_config_handler() -> None:
    """Makes Detectron2's, fvcore's and iopath's own path managers, and ``_BASE_``, understand
    ``agssp://``; idempotent."""
    for manager in (PathManager, fvcore_path_manager, g_pathmgr):
        if PREFIX not in manager._path_handlers:
            manager.register_handler(ConfigHandler())
    CfgNode._open_cfg = staticmethod(_open_cfg)
