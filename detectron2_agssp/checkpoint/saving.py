"""Checkpoints of a training run that are whole or not there."""

import os
import zipfile
from pathlib import Path

from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.io.files import atomic_write

PARTIAL = ".partial-"


class AtomicCheckpointer(CheckedCheckpointer):
    """Judges what it loads; what it writes is renamed into place once it is whole, and only then
    called the last: a kill or a full disk leaves nothing half-written to resume from."""

    def save(self, name: str, **more) -> None:
        super().save(f"{PARTIAL}{name}", **more)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        folder, name = Path(self.save_dir), last_filename_basename.removeprefix(PARTIAL)
        os.replace(folder / last_filename_basename, folder / name)
        with atomic_write(folder / "last_checkpoint") as file:
            file.write(name)


def forget_damaged_checkpoints(folder: str | Path) -> list[str]:
    """Removes checkpoints of a run that were cut short, and lets ``last_checkpoint`` name the
    newest whole one; without any, the run begins anew.

    Returns:
        Names of the files that were removed.
    """
    folder = Path(folder)
    damaged = [path for path in folder.glob("*.pth") if not _is_whole(path)]
    for path in damaged:
        path.unlink()
    tag = folder / "last_checkpoint"
    if tag.exists():
        # Without a name it is the folder itself.
        last = folder / tag.read_text().strip()
        if not last.is_file():
            whole = sorted(folder.glob("model_[0-9]*.pth"))
            if whole:
                with atomic_write(tag) as file:
                    file.write(whole[-1].name)
            else:
                tag.unlink()
    return sorted(path.name for path in damaged)


def _is_whole(path: Path) -> bool:
    # torch.save writes a zip file, whose table of contents comes last.
    return not path.name.startswith(PARTIAL) and zipfile.is_zipfile(path)
