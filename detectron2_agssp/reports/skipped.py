"""Reading ``skipped.jsonl``: the images that have no map, and why."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAX_REASONS = 1000  # kept apart; more would be a file that was not meant to be read


@dataclass
class SkippedFiles:
    """What ``skipped.jsonl`` lists.

    Attributes:
        count: lines.
        reasons: kind of reason -> (images, the first of them, its reason in full), most first.
        first: the first images with their reasons.
    """

    count: int
    reasons: dict[str, tuple[int, str, str]]
    first: list[tuple[str, str]]


def read_skipped(map_root: str | Path, num_listed: int = 50) -> SkippedFiles | None:
    """Reads a map folder's ``skipped.jsonl``; None where there is none.

    Reasons that differ only in what they quote and in numbers (paths, sizes) are one kind. A line
    that is not one of the map tool's is counted as such.
    """
    path = Path(map_root) / "skipped.jsonl"
    if not path.exists():
        return None
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    first = []
    for image, reason in _skipped_lines(path):
        kind = re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason)
        kind = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", kind)
        if kind not in counts and len(counts) >= _MAX_REASONS:
            kind = "other reasons"
        counts[kind] += 1
        examples.setdefault(kind, (image, reason))
        if len(first) < num_listed:
            first.append((image, reason))
    reasons = {kind: (count, *examples[kind]) for kind, count in counts.most_common()}
    return SkippedFiles(counts.total(), reasons, first)


def _skipped_lines(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                content = json.loads(line)
                yield str(content["image"]), str(content["reason"])
            except (ValueError, TypeError, KeyError):
                yield f"line {number}", "not a line of the map tool; was it killed while writing?"
