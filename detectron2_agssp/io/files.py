"""Writing files so that a killed run never leaves half of one."""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of the temporary files that a killed process leaves.
TEMPORARY_PATTERN = ".agssp-*.tmp"


def lock_file(descriptor: int, mode: int) -> bool:
    """Whether the lock of ``fcntl.flock`` was got; False with LOCK_NB where another has it. Some
    network file systems cannot lock: there it counts as got, and nothing is guarded."""
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def datasets_root() -> Path:
    """``$DETECTRON2_DATASETS``, by default ``datasets`` as in Detectron2."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


@contextlib.contextmanager
def atomic_path(path: str | Path, temporary_root: Path | None = None) -> Iterator[Path]:
    """Yields a free path for a file or a link to be made there; renames it to ``path`` on success
    and removes it otherwise.

    Args:
        path: its folder is made if it is missing.
        temporary_root: folder of the free path, on the same file system; by default ``path``'s.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name, which may be as long as a name can be.
    temporary = (temporary_root or path.parent) / f".agssp-{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w", temporary_root: Path | None = None) -> Iterator:
    """Opens a temporary file (see :func:`atomic_path`) and renames it to ``path`` on success."""
    encoding = None if "b" in mode else "utf-8"
    with (
        atomic_path(path, temporary_root) as temporary,
        open(temporary, mode, encoding=encoding) as file,
    ):
        yield file


def write_json(path: str | Path, content: Any) -> None:
    """Writes ``content`` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
