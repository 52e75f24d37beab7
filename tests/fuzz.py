"""Random damage to files, and what their readers make of it: read or refused, never anything else.

Many of them are read in processes of their own, which end by a crash, by a hang or by too much
memory without ending the test."""

import json
import os
import random
import re
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.child_process import run_in_child

# Reads one file that may be damaged.
Readers = Mapping[Path, Callable[[], object]]
PIECES = (
    b"[",
    b"{",
    b"../",
    b"1e999",
    b"9" * 30,
    b'"',
    b"\\u0000",
    b"null",
    b"\n",
    b"\xef\xbb\xbf",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
)
# Of text: what has a value, and other values.
TOKEN = re.compile(rb'"[^"\n]*"|-?\d+(?:\.\d+)?|\b[A-Za-z_]\w*|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>')
VALUES = (
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1.5",
    b"1e999",
    b"NaN",
    b"-1e308",
    b"9" * 30,
    b'""',
    b'"x"',
    b'"../../x"',
    b'"/etc/hostname"',
    b'"\\u0000"',
    b"[]",
    b"[[1, 2], [3]]",
    b"{}",
    b'{"a": [null]}',
)
# Bytes of a file that say most of what the rest means.
HEADER = 64
# A process gets that much more memory than it has, bytes.
MORE_MEMORY = 2**31
CHUNK = 500


class Outcome(NamedTuple):
    """What became of a damaged file.

    Attributes:
        number: of the damage, which is its seed.
        path: of the file.
        error: name of the class of what was raised, "" where it was read; or "crash" or "hang".
        message: of the error.
        foreseen: whether the error is one that says "damaged".
    """

    number: int
    path: str
    error: str = ""
    message: str = ""
    foreseen: bool = True


def damaged(content: bytes, rng: random.Random) -> bytes:
    """With some of its bytes changed; in every other file also some put in, taken out or cut off,
    and in most texts other values instead. What is in the header is changed most."""
    mutated = bytearray(content)
    tokens = list(TOKEN.finditer(content)) if b"\0" not in content else []
    if len(tokens) > 3 and rng.random() < 0.7:
        for token in sorted(rng.sample(tokens, rng.randint(1, 3)), key=re.Match.start)[::-1]:
            other = rng.choice((*VALUES, rng.choice(tokens)[0]))
            mutated[token.start() : token.end()] = other
        return bytes(mutated)
    same_length = rng.random() < 0.5
    for _ in range(rng.randint(1, 6)):
        end = len(mutated) if rng.random() < 0.6 else min(HEADER, len(mutated))
        place, kind = rng.randrange(end + 1), rng.random()
        if same_length:
            mutated[place : place + 1] = rng.randbytes(1)[: len(mutated) - place]
        elif kind < 0.15:
            del mutated[place:]
        else:
            new = rng.choice((b"", rng.randbytes(1), rng.randbytes(8), rng.choice(PIECES)))
            mutated[place : place + rng.choice((0, 0, len(new), 1, 30))] = new
    return bytes(mutated)


def read_damaged(readers: Readers, numbers: range, begun: Callable[[int], object] = int):
    """Yields the outcome of a damaged file per number; ``begun`` is called before each."""
    paths = list(readers)
    whole = {path: path.read_bytes() for path in paths}
    for number in numbers:
        path = paths[number % len(paths)]
        path.write_bytes(damaged(whole[path], random.Random(number)))
        begun(number)
        try:
            readers[path]()
            yield Outcome(number, str(path))
        except Exception as error:
            foreseen = isinstance(error, ValueError | FileNotFoundError)
            yield Outcome(number, str(path), type(error).__name__, str(error), foreseen)
        path.write_bytes(whole[path])


def read_in_children(make: Callable[[Path], Readers], folder: Path, count: int) -> list[Outcome]:
    """:func:`read_damaged` of ``count`` files in processes of limited memory.

    Args:
        make: writes the whole files into a folder; importable.
        folder: a new one for each process is made in it.
    """
    outcomes: list[Outcome] = []
    number = 0
    while number < count:
        place = folder / str(number)
        place.mkdir()
        numbers = range(number, min(number + CHUNK - number % CHUNK, count))
        try:
            code = run_in_child(_read_and_tell, make, place, numbers)
        except TimeoutError:
            code = None
        if not (place / "begun").exists():
            raise RuntimeError(f"{make.__name__} failed: see what its process printed.")
        lines = (place / "outcomes.jsonl").read_text().splitlines()
        outcomes += [Outcome(*json.loads(line)) for line in lines]
        number = numbers.stop
        if code != 0:
            stopped = int((place / "begun").read_text())
            how = "hang" if code is None else "crash"
            outcomes.append(Outcome(stopped, str(place), how, f"exit code {code}", False))
            number = stopped + 1
    return outcomes


def _read_and_tell(make: Callable[[Path], Readers], folder: Path, numbers: range) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY, size + MORE_MEMORY))
    files = folder / "files"
    files.mkdir()
    descriptor = os.open(folder / "begun", os.O_WRONLY | os.O_CREAT)
    with open(folder / "outcomes.jsonl", "w", buffering=1) as told:
        readers = make(files)
        for outcome in read_damaged(
            readers, numbers, lambda n: os.pwrite(descriptor, b"%09d" % n, 0)
        ):
            told.write(json.dumps(outcome) + "\n")
