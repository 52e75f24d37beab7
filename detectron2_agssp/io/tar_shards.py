"""Images in tar archives, read where they are: ``tar://<archives>/<image>``.

Millions of small files are slow to list, copy and open; `webdataset` and others keep them in
numbered archives, ``shard-{000..099}.tar``. Together such archives are one folder of images here,
which Detectron2's PathManager lists and opens, so that whatever reads a folder reads them. Nothing
is unpacked. Names that would lead out of an archive are passed over, and said.
"""

import bisect
import functools
import glob
import io
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

from detectron2_agssp.io.files import user_path
from detectron2_agssp.io.images import IMAGE_SUFFIXES
from detectron2_agssp.io.remote_files import fetch_file
from detectron2_agssp.utils.naming import some_of

logger = logging.getLogger(__name__)

PREFIX = "tar://"
MAX_ARCHIVES = 100_000


def is_archive(root: str | Path) -> bool:
    """Whether a user's folder of images is archives: a name in .tar, with braces or * or not."""
    return os.fspath(root).endswith(".tar")


def image_root_of(root: str | Path) -> str:
    """A user's folder of images as it is recorded: ``tar://...`` of archives, absolute; others as
    they are."""
    given = os.fspath(root)
    if not is_archive(given) or given.startswith(PREFIX) or os.path.isdir(user_path(given)):
        return given
    return PREFIX + (given if "://" in given else os.path.abspath(user_path(given)))


def check_no_archive(folder: str | Path) -> None:
    """Refuses a folder to write that is an archive, as it is where a shell has taken braces apart.

    Raises:
        ValueError: its name ends in .tar.
    """
    if is_archive(folder):
        raise ValueError(
            f"{os.fspath(folder)!r} would be the folder to write. Put quotes around archives with "
            "braces or *, which the shell takes apart: 'shard-{000..099}.tar'."
        )


def expand_braces(name: str) -> list[str]:
    """``a-{08..10}.tar`` -> a-08.tar, a-09.tar, a-10.tar; ``{a,b}`` -> a, b.

    Raises:
        ValueError: braces with neither, or more than 100,000 names.
    """
    match = re.search(r"\{([^{}]*)\}", name)
    if match is None:
        return [name]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = map(int, numbers.groups())
        if not 0 <= last - first < MAX_ARCHIVES:
            raise ValueError(f"{match[0]} of {name} is no range of 1 to {MAX_ARCHIVES:,} archives.")
        options = [f"{number:0{len(numbers[1])}}" for number in range(first, last + 1)]
    elif "," in match[1]:
        options = match[1].split(",")
    else:
        raise ValueError(f"{match[0]} of {name} is neither {{000..099}} nor {{a,b}}.")
    rest = expand_braces(name[match.end() :])
    if len(options) * len(rest) > MAX_ARCHIVES:
        raise ValueError(f"{name} is more than {MAX_ARCHIVES:,} archives.")
    return [name[: match.start()] + option + tail for option in options for tail in rest]


class TarShards:
    """Images of some archives: where each is, known from one pass over the archives' headers.

    Args:
        name: of the archives, as given: braces and, of local ones, *. What is not local is fetched,
            whole, into a cache (:func:`~detectron2_agssp.io.remote_files.fetch_file`).

    Raises:
        FileNotFoundError: an archive is not there.
        ValueError: an archive is damaged or compressed, an image is in two of them, or nothing
            reads such URLs.
        ConnectionError: an archive cannot be fetched.
    """

    def __init__(self, name: str):
        self.archives = _archives(name)
        self.states = [_state(path) for path in self.archives]
        # Sorted, as lists: an image costs its name and three numbers.
        places: dict[str, tuple[int, int, int]] = {}
        for number, path in enumerate(self.archives):
            own = dict(_images(path))
            for image in own.keys() & places.keys():
                other = self.archives[places[image][0]]
                raise ValueError(
                    f"{path} and {other} both hold {image!r}: an image must be in one archive only."
                )
            places |= {image: (number, *place) for image, place in own.items()}
        self.names = sorted(places)
        self.places = [places[image] for image in self.names]

    def is_current(self) -> bool:
        """Whether no archive has changed since."""
        try:
            return [_state(path) for path in self.archives] == self.states
        except OSError:
            return False

    def is_folder(self, folder: str) -> bool:
        prefix = f"{folder}/" if folder else ""
        first = bisect.bisect_left(self.names, prefix)
        return not folder or (first < len(self.names) and self.names[first].startswith(prefix))

    def list_folder(self, folder: str) -> list[str]:
        """The names in a folder, sorted by no particular rule; "" is the whole."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, None] = {}
        position = bisect.bisect_left(self.names, prefix)
        while position < len(self.names) and self.names[position].startswith(prefix):
            head, slash, _ = self.names[position][len(prefix) :].partition("/")
            found[head] = None
            # "0" follows "/": the first name that is not below this folder.
            after = f"{prefix}{head}0" if slash else ""
            position = bisect.bisect_left(self.names, after) if slash else position + 1
        return list(found)

    def __contains__(self, image: str) -> bool:
        position = bisect.bisect_left(self.names, image)
        return position < len(self.names) and self.names[position] == image

    def read(self, image: str) -> bytes:
        """The content of an image.

        Raises:
            FileNotFoundError: there is none of this name.
            OSError: its archive has changed since it was indexed.
        """
        if image not in self:
            raise FileNotFoundError(f"{image!r} is in none of {some_of(self.archives)}.")
        number, start, size = self.places[bisect.bisect_left(self.names, image)]
        path = self.archives[number]
        # Opened for each: processes that share an open file would share its position.
        with open(path, "rb") as file:
            if _state(path) != self.states[number]:
                raise OSError(f"{path} has changed since its images were listed. Run it again.")
            file.seek(start)
            return file.read(size)


def _archives(name: str) -> list[str]:
    found: list[str] = []
    for archive in expand_braces(name):
        if "://" in archive:
            if "*" in archive:
                raise ValueError(
                    f"{archive} has a *, which finds local archives only. Name remote ones with "
                    "braces: shard-{000..099}.tar."
                )
            found.append(fetch_file(archive))
        elif "*" in archive:
            found += sorted(glob.glob(archive, recursive=False))
        else:
            found.append(archive)
    if not found:
        raise FileNotFoundError(f"No archive is called {name}.")
    missing = [path for path in found if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(found)} archives are not there: {some_of(missing)}."
        )
    return list(dict.fromkeys(found))


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _images(path: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields image -> (offset, size) of an archive, of the last one that has the name."""
    refused = []
    with open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would hold each header
                    name = re.sub(r"^(\./+)+", "", member.name)
                    if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES or member.isdir():
                        continue
                    if reason := _fault(name, member):
                        refused.append(f"{member.name!r} ({reason})")
                    else:
                        yield name, (member.offset_data, member.size)
                end = archive.offset
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise ValueError(_damaged(path, str(error))) from error
        # A header that is none ends an archive without a word.
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(_damaged(path, f"no header at byte {end}"))
    if refused:
        logger.warning(
            "%d members of %s are passed over: %s", len(refused), path, some_of(refused, 3)
        )


def _fault(name: str, member: tarfile.TarInfo) -> str:
    """Why a member is no image that can be read; "" if it is one."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", parts[0]) or "\0" in name:
        return "its path leaves the archive"
    if "" in parts or "." in parts:
        return "its path has an empty part"
    if not member.isreg() or member.issparse():
        return "it is a link, a device or sparse"
    return ""


def _damaged(path: str, reason: str) -> str:
    return (
        f"{path} is no tar archive that can be read in place ({reason}). Make it anew, without "
        "compression."
    )


@functools.lru_cache(maxsize=8)
def _shards(name: str) -> TarShards:
    return TarShards(name)


class TarHandler(PathHandler):
    """Lists and opens ``tar://`` for Detectron2's PathManager, for reading."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _split(self, path: str) -> tuple[TarShards, str]:
        match = re.match(rf"{PREFIX}(.+?\.tar)(?:/+(.*?)/*)?$", path, re.DOTALL)
        if match is None:
            raise FileNotFoundError(f"{path} names no archive: its name must end in .tar.")
        return _shards(match[1]), match[2] or ""

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        if mode != "rb":
            raise ValueError(f"{path} is an image in an archive: it opens as 'rb', not {mode!r}.")
        shards, image = self._split(path)
        return io.BytesIO(shards.read(image))

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        shards, folder = self._split(path)
        if not folder and not shards.is_current():
            _shards.cache_clear()
            shards, folder = self._split(path)
        return shards.is_folder(folder)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        shards, image = self._split(path)
        return image in shards

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path) or self._isdir(path)

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        shards, folder = self._split(path)
        return shards.list_folder(folder)


def install_tar_handler() -> None:
    """Makes Detectron2's PathManager understand ``tar://``; idempotent."""
    if PREFIX not in PathManager._path_handlers:
        PathManager.register_handler(TarHandler())
