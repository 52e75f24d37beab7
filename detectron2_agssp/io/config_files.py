"""The configs that come with the package, and ``agssp://``, which names them wherever Detectron2
reads a file: ``agssp://agbp/R50.yaml``."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from fvcore.common.file_io import PathManager as fvcore_path_manager
from iopath.common.file_io import g_pathmgr

from detectron2_agssp.io.shipped_files import ShippedFiles, name_inside
from detectron2_agssp.utils.suggestions import did_you_mean

PREFIX = "agssp://"
_WHOLE = "the shipped configs"


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
    inside = name_inside(name, PREFIX, _WHOLE)
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


class ConfigHandler(ShippedFiles):
    """Opens ``agssp://`` for iopath's path managers, for reading."""

    prefix, whole = PREFIX, _WHOLE

    def root(self) -> Path:
        return config_root()

    def find(self, path: str) -> Path:
        return config_path(path)


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
