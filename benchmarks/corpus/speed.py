"""How long `agssp corpus` takes, and its memory, on a generated set of small JPEG files.

    python -m benchmarks.corpus.speed --images 100000 [--folder DIR]

Ten sources of surfaces with grain, 128 x 96 pixels; one in twenty is another exposure of an earlier
one. The files are deleted afterwards. The second time is that of the same command again.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import describe_machine
from detectron2_agssp.data.corpus import build_corpus

SOURCES = 10
HEIGHT, WIDTH = 96, 128
EVERY = 20  # of which one is a duplicate
_FIELD = 2048


def make_images(folder: Path, count: int) -> list[Path]:
    """``count`` images in ten folders."""
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(0, 60, (_FIELD, _FIELD)).astype(np.float32), (0, 0), 1.5)
    roots = [folder / f"line_{number}" for number in range(SOURCES)]
    for root in roots:
        root.mkdir(parents=True)
    places = rng.integers(0, (_FIELD - HEIGHT, _FIELD - WIDTH), (count, 2))
    grain = rng.normal(0, 8, (64, HEIGHT, WIDTH)).astype(np.float32)
    for number in range(count):
        exposure = 1.0
        shown = number
        if number % EVERY == EVERY - 1:
            exposure, shown = 0.8, number - EVERY + 1
        y, x = places[shown]
        image = field[y : y + HEIGHT, x : x + WIDTH] + grain[shown % 64]
        if shown % 3 == 0:
            image = image[::-1]
        pixels = np.clip((image + 120) * exposure, 0, 255).astype(np.uint8)
        cv2.imwrite(str(roots[number % SOURCES] / f"{number:06d}.jpg"), pixels)
    return roots


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--folder", help="where they are made (the system's temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        roots = make_images(Path(folder) / "images", args.images)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            corpus = build_corpus(roots, Path(folder) / "corpus", progress=False)
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(describe_machine())
    print(
        f"{args.images:,} images: {seconds[0]:.0f} s ({args.images / seconds[0]:.0f} images per "
        f"second), again {seconds[1]:.0f} s; {corpus.total:,} kept, {dict(corpus.reasons)}; memory "
        f"{before / 1024:.0f} MiB before, {peak / 1024:.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
