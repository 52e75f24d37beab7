"""Reading ``skipped.jsonl``: the images that have no map, and why."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

_MAX_REASONS = 1000  # kept apart; more would be a file that was not meant to be read


@dataclass
class SkippedFiles:
    """What ``skipped.jsonl`` lists.

    Attributes:
        count: lines.
        reasons: kind of reason -> (images, the first of them), most first.
        first: the first images with their reasons.
    """

    count: int = 0
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    first: list[tuple[str, str]] = field(default_factory=list)


def read_skipped(map_root: str | Path, num_listed: int = 50) -> SkippedFiles | None:
    """Reads the ``skipped.jsonl`` of a folder of maps or predictions; None where there is none.

    Reasons that differ only in what they quote and in numbers (paths, sizes) are one kind. A line
    that is not one of the map tool's is counted as such.
    """
    path = Path(map_root) / "skipped.jsonl"
    if not path.exists():
        return None
    skipped = SkippedFiles()
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                content = json.loads(line)
                image, reason = str(content["image"]), str(content["reason"])
            except (ValueError, TypeError, KeyError):
                image = f"line {number}"
                reason = "not a line of the map tool; was it killed while writing?"
            kind = re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason)
            kind = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", kind)
            if kind not in skipped.reasons and len(skipped.reasons) >= _MAX_REASONS:
                kind = "other reasons"
            count, first = skipped.reasons.get(kind, (0, image))
            skipped.reasons[kind] = (count + 1, first)
            skipped.count += 1
            if len(skipped.first) < num_listed:
                skipped.first.append((image, reason))
    skipped.reasons = dict(sorted(skipped.reasons.items(), key=lambda item: -item[1][0]))
    return skipped
