"""Writing files so that a killed run never leaves half of one."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of the temporary files that a killed process leaves.
TEMPORARY_PATTERN = ".agssp-*.tmp"


def datasets_root() -> Path:
    """``$DETECTRON2_DATASETS``, by default ``datasets`` as in Detectron2."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator:
    """Opens a temporary file beside ``path`` and renames it to ``path`` on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name, which may be as long as a name can be.
    temporary = path.with_name(f".agssp-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Writes ``content`` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
