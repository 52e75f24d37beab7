"""Detectron2's ``metrics.json``, as a run that may have been killed left it."""

import contextlib
import json
from pathlib import Path


def read_metrics(output_dir: str | Path) -> list[dict]:
    """The records of Detectron2's ``metrics.json``, in the order they were written; none where
    there is no such file. A line that a killed process left unfinished, or no run wrote, is passed
    over."""
    path, records = Path(output_dir) / "metrics.json", []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("iteration"), int):
                records.append(record)
    return records
