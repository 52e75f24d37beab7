"""Puts files where Detectron2 looks for them: links or copies, atomic writes, nothing stale."""

import contextlib
import os
import re
import shutil
from pathlib import Path

from detectron2_agssp.io.files import atomic_path, datasets_root, read_json, safe_join, write_json

# Lists what the last run put here, so that the next one can remove what it no longer wants, and
# only that: an image that moved from train to test has to leave train.
PLACED = ".prepared.json"


def default_output(dataset: str) -> Path:
    """``$DETECTRON2_DATASETS/<dataset>``; the variable defaults to ``datasets``, as elsewhere."""
    return datasets_root() / dataset


def checked_output(output: Path, source: Path) -> Path:
    """The output folder. Raises ValueError if it is the source or below it."""
    if output.resolve().is_relative_to(source):
        raise ValueError(
            f"the output {str(output)!r} is inside the source {str(source)!r}, which a second run "
            "would then read: move the source or give another --output"
        )
    return output


def claim_files(output: Path, wanted: set[str]) -> None:
    """Removes what an earlier run put below ``output`` and is not wanted now.

    ``wanted`` holds paths relative to ``output``, in posix form. Files no run put there stay.

    Raises:
        ValueError: the list of the earlier run names what no run puts there; nothing is removed.
    """
    listing = output / PLACED
    earlier = read_json(listing) if listing.exists() else []
    try:
        stale = [_placed_file(output, path) for path in earlier if path not in wanted]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{listing} is not the list that an earlier run wrote ({error}). Nothing was removed: "
            "look through the folder, or choose another one."
        ) from error
    for path in sorted(stale):
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()
    write_json(listing, sorted(wanted))


def _placed_file(output: Path, relative: str) -> Path:
    """A file of the kinds that a run puts below ``output``; ValueError for any other."""
    path = safe_join(output, relative)
    if not re.match(r"(images|masks)/(train|test)/.|annotations/[^/]+\.json$", relative):
        raise ValueError(f"{relative!r} is no image, mask or annotation of a data set")
    if path.is_dir() and not path.is_symlink():
        raise ValueError(f"{relative!r} is a folder")
    return path


def place_file(source: Path, target: Path, copy: bool) -> None:
    """Makes ``target`` a link to ``source``, or a copy if asked or where links are refused.

    A target that is right already is left alone.
    """
    if _is_placed(source, target, copy):
        return
    with atomic_path(target) as temporary:
        if copy or not _link(source, temporary):
            # Not copystat: a copy of a read-only file should be removable.
            shutil.copyfile(source, temporary)
            times = source.stat()
            os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))


def _link(source: Path, target: Path) -> bool:
    try:
        target.symlink_to(source)
    except (OSError, NotImplementedError):  # Windows without the right, some network drives
        return False
    return True


def _is_placed(source: Path, target: Path, copy: bool) -> bool:
    if target.is_symlink():
        return not copy and os.readlink(target) == str(source)
    if not target.is_file():
        return False
    # A copy in place of a link means that links were refused before, or that --copy was left out
    # this time; a copy that is as new and as long as its source does as well.
    here, there = target.stat(), source.stat()
    return (here.st_size, int(here.st_mtime)) == (there.st_size, int(there.st_mtime))
