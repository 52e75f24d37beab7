"""Seconds that the quickstart's stages took."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from detectron2_agssp.io.files import write_json


class Timings:
    """Seconds a stage, kept in a file so that a resumed quickstart still knows them."""

    def __init__(self, path: Path):
        self.path, self.seconds = path, {}
        # A killed run may leave it damaged; it says nothing about what is finished.
        with contextlib.suppress(OSError, ValueError):
            self.seconds = json.loads(path.read_text())

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measures the block; a repeated or resumed stage keeps its longest time."""
        print(f"== {stage}", flush=True)
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds[stage] = max(elapsed, self.seconds.get(stage, 0.0))
        write_json(self.path, self.seconds)
