"""Files that come with the package, below one folder and under a prefix such as ``agssp://``, for
iopath's path managers."""

import logging
import os
import posixpath
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler


def name_inside(name: str, prefix: str, whole: str) -> str:
    """Path below the folder that ``prefix`` stands for, without ``..``.

    Args:
        name: with or without the prefix.
        whole: what the folder holds, for the message: "the shipped configs".

    Raises:
        FileNotFoundError: it leads out of the folder.
    """
    inside = posixpath.normpath(name.removeprefix(prefix).replace(os.sep, "/"))
    if inside.startswith(("../", "/")) or inside == "..":
        raise FileNotFoundError(f"{name} leads out of {whole}.")
    return inside


class ShippedFiles(PathHandler):
    """Opens the files of one folder under a prefix, for reading; subclasses say which."""

    prefix: str
    whole: str

    def root(self) -> Path:
        """The folder; it may not be there."""
        raise NotImplementedError

    def find(self, path: str) -> Path:
        """A file of the folder, or FileNotFoundError that says what there is instead."""
        raise NotImplementedError

    def _below_root(self, path: str) -> Path:
        return self.root() / name_inside(path, self.prefix, self.whole)

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(self.find(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        if set(mode) - set("rbt"):
            raise ValueError(f"{path} is shipped with the package: it can be read, not written.")
        return open(self.find(path), mode, **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._below_root(path).exists()

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            return self.find(path).is_file()
        except FileNotFoundError as error:
            # Callers turn False into an error of their own, which lacks what to do.
            logging.getLogger(__name__).warning(error)
            return False

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return self._below_root(path).is_dir()

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        return sorted(os.listdir(self._below_root(path)))
