"""The code blocks of the documentation, and the commands in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.tiny_models import ROOT

PAGES = sorted(
    page
    for pattern in (
        "*.md",
        "docs/*.md",
        "datasets/*.md",
        "benchmarks/*.md",
        "benchmarks/results/*.md",
    )
    for page in ROOT.glob(pattern)
)
FENCE = re.compile(r"^( *)(```+)(.*)$")
MARKER = re.compile(r"<!-- (not run|slow|file): ?(.*?) ?-->")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: the file.
        line: of the opening fence, from 1.
        language: after the fence, such as "python"; "{name}" for a directive.
        text: dedented.
        marker: of the comment in the line before: "" or "not run" (with the reason), "slow" (with
            the time it takes), "file" (with the name under which later blocks find it).
        argument: of the marker.
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str
    argument: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order.

    Raises:
        ValueError: a fence that is not closed, or a marker without its argument.
    """
    blocks = []
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            number += 1
            continue
        indent, fence, language = opening.groups()
        end = next((i for i in range(number + 1, len(lines)) if lines[i].strip() == fence), None)
        if end is None:
            raise ValueError(f"{page}:{number + 1}: the block is not closed.")
        marked = MARKER.search(lines[number - 1]) if number else None
        marker, argument = marked.groups() if marked else ("", "")
        if marked and not argument:
            raise ValueError(f"{page}:{number}: the marker {marker!r} says nothing.")
        text = "\n".join(line.removeprefix(indent) for line in lines[number + 1 : end]) + "\n"
        blocks.append(Block(page, number + 1, language.strip(), text, marker, argument))
        number = end + 1
    return blocks


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block; continued lines are joined, comments dropped,
    and what follows ``|``, ``&&`` or ``;`` is a command of its own."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("|&;"):
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]
