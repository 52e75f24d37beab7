"""The zoo: pretrained weights in the folder ``zoo`` of a checkout, which open as
``agssp://zoo/NAME`` wherever Detectron2 reads a file. A wheel comes without them."""

from pathlib import Path

from detectron2.utils.file_io import PathManager
from fvcore.common.file_io import PathManager as fvcore_path_manager
from iopath.common.file_io import g_pathmgr

from detectron2_agssp.io.shipped_files import ShippedFiles, name_inside
from detectron2_agssp.utils.suggestions import did_you_mean

PREFIX = "agssp://zoo/"
_WHOLE = "the zoo"


def zoo_root() -> Path:
    """The folder of a checkout; where the package is installed there is none."""
    return Path(__file__).resolve().parents[2] / "zoo"


def zoo_path(name: str, root: Path | None = None) -> Path:
    """File of the zoo, such as ``"NAME.pth"`` or ``"agssp://zoo/NAME.pth"``.

    Args:
        root: folder of the files; None for :func:`zoo_root`.

    Raises:
        FileNotFoundError: it is not there; the message says where to get it, or what is nearest.
    """
    root = root or zoo_root()
    inside = name_inside(name, PREFIX, _WHOLE)
    path = root / inside
    if path.is_file():
        return path
    names = sorted(found.name for found in root.glob("*.pth"))
    if not names:
        raise FileNotFoundError(
            f"There is no {PREFIX}{inside} here: the zoo is the folder zoo of a checkout, and "
            f"{root} has no weights. Fetch zoo/{inside} from the project's repository, and name "
            f"the file itself: MODEL.WEIGHTS /path/to/{inside}"
        )
    urls = [f"{PREFIX}{found}" for found in names]
    hint = did_you_mean(f"{PREFIX}{inside}", urls, cutoff=0.7) or f" There are: {', '.join(urls)}."
    raise FileNotFoundError(f"There is no {PREFIX}{inside} in {root}.{hint}")


class ZooHandler(ShippedFiles):
    """Opens ``agssp://zoo/``.

    Attributes:
        folder: of the files; None for :func:`zoo_root`.
    """

    prefix, whole = PREFIX, _WHOLE
    folder: Path | None = None

    def root(self) -> Path:
        return self.folder or zoo_root()

    def find(self, path: str) -> Path:
        return zoo_path(path, self.folder)


_handler = ZooHandler()


def install_zoo_handler(folder: Path | None = None) -> None:
    """Makes Detectron2's, fvcore's and iopath's own path managers understand ``agssp://zoo/``;
    called again, it stands for the folder of the last call.

    Args:
        folder: of the files; None for :func:`zoo_root`.
    """
    _handler.folder = folder
    for manager in (PathManager, fvcore_path_manager, g_pathmgr):
        if PREFIX not in manager._path_handlers:
            manager.register_handler(_handler)
