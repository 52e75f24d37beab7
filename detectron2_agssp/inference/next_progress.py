"""What ``agssp next`` has looked at, kept until its choice is written: a run that was cut short
goes on from there."""

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.inference.store import check_entry
from detectron2_agssp.maps.manifest import append_lines, truncate_unfinished_line

logger = logging.getLogger(__name__)

NAME = "looked_at.jsonl"
_ARRAYS = ("vector", "thumbnail")


@dataclass(frozen=True)
class LookedAt:
    """An image that may be chosen.

    Attributes:
        entry: ``image``, ``height``, ``width``, and ``boxes``, ``scores`` and ``classes`` of the
            guess.
        vector: how it looks, (D,) float32.
        thumbnail: (P,) float32.
        uncertainty: of the detector, in [0, 1].
        unexplained: mean of its map outside detections, in [0, 1].
        state: by what a later run tells whether its files are the same.
    """

    entry: dict
    vector: np.ndarray
    thumbnail: np.ndarray
    uncertainty: float
    unexplained: float
    state: dict

    @property
    def name(self) -> str:
        return self.entry["image"]


class Progress:
    """A file with a line per image, after one that says by what they were looked at.

    Args:
        folder: where it is; it must be there before the first image is added.
        settings: by what; of others, or where a line is damaged, nothing is kept.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.path = folder / NAME
        # As it is read again.
        self.settings = json.loads(json.dumps(settings))

    def recorded(self) -> dict[str, LookedAt]:
        """Name -> what is known of it."""
        if not self.path.exists():
            return {}
        truncate_unfinished_line(self.path)
        found = {}
        try:
            with open(self.path, encoding="utf-8") as file:
                first = json.loads(next(file, "null"))
                if first == self.settings:
                    for looked in map(_of_line, file):
                        found[looked.name] = looked
                    return found
            reason = "was made with other settings"
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = f"is damaged ({error})"
        logger.warning("%s %s: begins anew.", self.path, reason)
        self.path.unlink()
        return {}

    def add(self, looked: LookedAt) -> None:
        """Writes a line."""
        lines: list[dict] = [] if self.path.exists() else [self.settings]
        numbers = {"uncertainty": looked.uncertainty, "unexplained": looked.unexplained}
        arrays = {key: _as_text(getattr(looked, key)) for key in _ARRAYS}
        lines.append({"entry": looked.entry, "state": looked.state, **numbers, **arrays})
        append_lines(self.path, lines)

    def remove(self) -> None:
        """Says that the choice is written."""
        self.path.unlink(missing_ok=True)


def _of_line(line: str) -> LookedAt:
    content = json.loads(line)
    check_entry(content["entry"])
    content |= {key: _as_array(content[key]) for key in _ARRAYS}
    return LookedAt(**content)


def _as_text(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _as_array(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
