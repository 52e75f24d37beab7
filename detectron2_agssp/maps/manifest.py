"""Files of JSON lines, one object per image: a map folder's manifest, and its skipped images."""

import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from detectron2_agssp.io.files import atomic_write, safe_join

MANIFEST_KEYS = ("image", "map", "height", "width", "source", "score")
# Of an image that a manifest lists: four bytes of each are held at once.
MAX_PIXELS = 2**30


def sort_key(image: str) -> list[str]:
    """Order of a folder walk, in which "a/b" comes before "a.jpg" only if "a" does."""
    return image.split("/")


def json_line(entry: dict) -> str:
    """One object as a line of UTF-8."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:
        # A file name that is not UTF-8; escaped, so that the file is.
        return json.dumps(entry) + "\n"
    return line


def append_lines(path: Path, entries: Iterable[dict]) -> None:
    """Adds objects to the end of a file, in one write."""
    text = "".join(map(json_line, entries))
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def truncate_unfinished_line(path: Path) -> bool:
    """Removes what a killed run left after the last newline; True if there was something."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        # A line is far shorter than a block, so one block from the end holds its start.
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            block = file.read(position - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position == end:
            return False
        file.truncate(position)
    return True


def read_lines(
    path: Path, *, at_work: bool = False, any_name: bool = False
) -> Iterator[tuple[int, dict]]:
    """Yields the objects of a file, and the numbers of their lines.

    Args:
        path: an existing file.
        at_work: another run may be writing: an unfinished last line is left out.
        any_name: of images, also what is no path below their folder: such are skipped.

    Raises:
        ValueError: it is no file of JSON objects with an ``image`` in UTF-8; the line is named.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file.")
    try:
        # "-sig": editors put a mark at the beginning.
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if at_work and not line.endswith("\n"):
                    return
                entry = json.loads(line)
                image = entry.get("image") if isinstance(entry, dict) else None
                if not (isinstance(image, str) if any_name else stays_inside(image)):
                    raise ValueError("it has no `image`, a path below the image folder")
                yield number, entry
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not in UTF-8 ({error.reason}). Save it as UTF-8, or delete the folder and "
            "run agssp maps again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}:{number} is not JSON of an image ({error}). Where a run was killed, running "
            "agssp maps again repairs it; otherwise delete that line first."
        ) from error


def newest(paths: Iterable[Path], **how: bool) -> dict[str, dict]:
    """Image -> its last object in the ``paths`` (those that exist), in the order of the first; read
    as by :func:`read_lines`."""
    lines = (line for path in paths if path.exists() for line in read_lines(path, **how))
    return {entry["image"]: entry for _, entry in lines}


def write_sorted(path: Path, entries: Iterable[dict]) -> None:
    """Writes objects as lines sorted by image, atomically, unless the file is so already."""
    ordered = sorted(entries, key=lambda entry: sort_key(entry["image"]))
    content = "".join(map(json_line, ordered)).encode()
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path, "wb") as file:
            file.write(content)


def check_entries(entries: Iterable[dict], path: Path) -> Iterator[dict]:
    """Passes the entries of the manifest ``path`` on.

    Raises:
        ValueError: a key is missing or of another kind, an image of more than ``MAX_PIXELS``, or a
            map that is not below the manifest's folder.
    """
    folders = set()
    for entry in entries:
        reason = _wrong(entry)
        if not reason and (folder := entry["map"].rpartition("/")[0]) not in folders:
            try:
                safe_join(path.parent, entry["map"])
            except ValueError as error:
                reason = str(error)
            folders.add(folder)
        if reason:
            raise ValueError(
                f"{path}: the entry of {entry['image']!r} {reason}. Delete that line and run agssp "
                "maps again."
            )
        yield entry


def _wrong(entry: dict) -> str:
    """What is wrong with the values of an entry; "" where they can be used."""
    if missing := [key for key in MANIFEST_KEYS if key not in entry]:
        return f"lacks {missing}"
    sides = entry["height"], entry["width"]
    if not all(type(side) is int and side > 0 for side in sides) or math.prod(sides) > MAX_PIXELS:
        return f"has height and width {reprlib.repr(sides)}, no size of an image"
    if not isinstance(entry["source"], str):
        return f"has source {entry['source']!r}, no text"
    return "" if stays_inside(entry["map"]) else f"has map {entry['map']!r}, not below the folder"


def stays_inside(path) -> bool:
    """Whether a path from a file is a relative one that does not lead up."""
    return (
        isinstance(path, str)
        and path.strip("/.") != ""
        and not path.startswith("/")
        and ".." not in path.replace("\\", "/").split("/")
        and "\0" not in path
    )


def finite_score(entry: dict, path: Path) -> float:
    """The image score of an entry of the manifest ``path``.

    Raises:
        ValueError: it is not a finite number.
    """
    score = entry["score"]
    # Python's numbers may be larger than any float.
    if type(score) not in (int, float) or not -1e300 < score < 1e300:
        raise ValueError(
            f"{path}: image {entry['image']!r} has score {reprlib.repr(score)}; expected a finite "
            "number. Delete its map and run agssp maps again."
        )
    return float(score)


def seeded_rank(seed: int, image: str) -> int:
    """A number that orders images at random, but the same way each time and in any folder."""
    digest = blake2b(os.fsencode(f"{seed}:{image}"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
