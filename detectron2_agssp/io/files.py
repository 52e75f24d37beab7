"""Files that are read with care, and written so that a killed run never leaves half of one."""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import portalocker

# Bytes of the largest json that is read: COCO's own train2017 has 450 MB.
MAX_JSON_BYTES = 2**31
# Bytes of the largest xml of labels: thousands of objects.
MAX_XML_BYTES = 2**25
# Bytes of the largest table or list.
MAX_TEXT_BYTES = 2**30
# A used-up quota and a limit of the size of files are like it.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Of the temporary files that a killed process leaves.
TEMPORARY_PATTERN = ".agssp-*.tmp"


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Whether the lock was got; False with ``wait=False`` where another has it. Some network file
    systems cannot lock: there it counts as got, and nothing is guarded.

    Args:
        descriptor: of an open file or folder.
        shared: several may have it at once, unless another has it unshared.
        wait: until it is free.
    """
    flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
    if not wait:
        flags |= portalocker.LockFlags.NON_BLOCKING
    try:
        portalocker.lock(descriptor, flags)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        # Older releases have no class of their own for it.
        return getattr(error.args[0], "errno", None) not in (errno.EACCES, errno.EAGAIN)
    return True


def user_path(path: str | Path) -> Path:
    """A path as a user gives it: ``~`` is the home folder."""
    return Path(path).expanduser()


def windows_hint(path: str | Path) -> str:
    """A sentence for the message that a path is not there, "" unless it is one of Windows."""
    if os.name == "nt" or not re.match(r"[A-Za-z]:[\\/]|\\\\", os.fspath(path)):
        return ""
    return " It is a path of Windows: name it as this system sees it, such as /mnt/c/..."


def safe_join(root: str | Path, relative: str) -> Path:
    """The path of ``relative`` below ``root``, for names that were read from a file.

    The last part may be a link; what is above it must stay inside ``root``, links included.

    Args:
        root: the folder that nothing may leave.
        relative: POSIX path relative to it.

    Raises:
        ValueError: ``relative`` is no text, empty, absolute, or leads out of ``root``.
    """
    text = relative if isinstance(relative, str) else ""
    names = [part for part in text.split("/") if part not in ("", ".")]
    if not names or os.path.isabs(text) or ".." in names or "\0" in text:
        raise ValueError(
            f"{relative!r} is not the path of a file below {str(root)!r}: it must be relative and "
            "without '..'."
        )
    path = Path(root).joinpath(*names)
    if not path.parent.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f"{relative!r} leads out of {str(root)!r} through a link.")
    return path


def escaped_name(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 are escaped."""
    return name.encode(errors="backslashreplace").decode()


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """The content of a file, if it is one: a pipe or a device could be read for ever.

    Raises:
        FileNotFoundError, ValueError, OSError: no such file; a folder, a pipe, a device, or more
            than ``limit`` bytes; or it cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(f"{os.fspath(path)!r} is {kind}, not a file.")
    if limit is not None and status.st_size > limit:
        raise ValueError(f"{os.fspath(path)!r} has {status.st_size} bytes, more than {limit}.")
    with open(path, "rb") as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """Text in UTF-8 or UTF-16, with or without byte order mark; what is neither is replaced.

    Raises:
        FileNotFoundError, ValueError, OSError: as :func:`read_regular`.
    """
    encoded = read_regular(path, MAX_TEXT_BYTES)
    is_utf16 = encoded.startswith((b"\xff\xfe", b"\xfe\xff"))
    return encoded.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")


def file_digest(path: str | Path) -> str:
    """What tells the content of a file from that of others."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str | Path) -> Any:
    """The content of a json file in UTF-8, UTF-16 or UTF-32, with or without byte order mark.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no json, and the message names it.
    """
    path = user_path(path)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    encoded = read_regular(path, MAX_JSON_BYTES)
    try:
        return json.loads(encoded)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{os.fspath(path)} is not json in UTF-8 or UTF-16 ({error}). Save it as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)} is not json ({error}).") from error


def datasets_root() -> Path:
    """``$DETECTRON2_DATASETS``, by default ``datasets`` as in Detectron2."""
    return user_path(os.getenv("DETECTRON2_DATASETS", "datasets"))


def read_xml(path: str | Path) -> ElementTree.Element:
    """The root of an xml file, in any encoding that Python knows.

    Raises:
        FileNotFoundError, OSError: no such file, or it cannot be opened.
        ValueError: it is no xml, and the message names it.
    """
    encoded = read_regular(path, MAX_XML_BYTES)
    try:
        return ElementTree.fromstring(encoded)
    except Exception as error:  # the parser also raises LookupError, ValueError, ...
        declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)["'][^>]*\?>""", encoded)
        reason = str(error)
        if declared is not None:
            # The parser itself knows no encodings of several bytes, such as GBK.
            with contextlib.suppress(LookupError, UnicodeError, ElementTree.ParseError):
                text = encoded[declared.end() :].decode(declared[1].decode())
                return ElementTree.fromstring(text)
            reason = f"{error}; it says that its encoding is {declared[1].decode()!r}"
        raise ValueError(f"{os.fspath(path)!r} is not xml that can be read ({reason}).") from error


@contextlib.contextmanager
def atomic_path(path: str | Path, temporary_root: Path | None = None) -> Iterator[Path]:
    """Yields a free path for a file or a link to be made there; renames it to ``path`` on success
    and removes it otherwise.

    Args:
        path: its folder is made if it is missing.
        temporary_root: folder of the free path, on the same file system; by default ``path``'s.

    Raises:
        OSError: it cannot be written: ``path`` and the way out are named.
    """
    path = user_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name, which may be as long as a name can be.
    temporary = (temporary_root or path.parent) / f".agssp-{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if said := _writing_error(error, path, temporary):
            raise said from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _writing_error(error: Exception, path: Path, temporary: Path) -> OSError | None:
    """An error in writing ``path`` that names it, and not the file that it was to be until then."""
    # torch.save hides it behind one of its own.
    cause = error if isinstance(error, OSError) else error.__context__
    if not isinstance(cause, OSError):
        return None
    if cause.errno in FULL_DISK:
        way_out = "there is no room on its disk. Make some, and run the same command again"
    elif cause.errno in _FORBIDDEN and cause.filename == os.fspath(temporary):
        way_out = "name another place, or make its folder one that you can write to"
    else:
        return None
    return OSError(cause.errno, f"{path} is not written ({cause.strerror}): {way_out}.")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w", temporary_root: Path | None = None) -> Iterator:
    """Opens a temporary file (see :func:`atomic_path`) and renames it to ``path`` on success."""
    encoding = None if "b" in mode else "utf-8"
    with (
        atomic_path(path, temporary_root) as temporary,
        open(temporary, mode, encoding=encoding) as file,
    ):
        yield file


@contextlib.contextmanager
def named_when_full(folder: str | Path, way_out: str) -> Iterator[None]:
    """Says of a full disk whose it is, and ``way_out``, a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise OSError(error.errno, f"The disk of {folder} is full. {way_out}") from error


@contextlib.contextmanager
def only_run(folder: str | Path) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made; what is empty at the end is taken away.

    Raises:
        OSError: another run is there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock_file(descriptor, wait=False):
            raise OSError(f"Another run is writing to {folder}. Wait for it to end.")
        yield
    finally:
        os.close(descriptor)
        # A run that was refused before it wrote anything leaves nothing.
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_json(path: str | Path, content: Any) -> None:
    """Writes ``content`` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
