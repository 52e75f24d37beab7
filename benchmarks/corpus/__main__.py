"""AGBP on pretraining sets of one, four and many sources, as they are and balanced.

    python -m benchmarks.corpus --corpus FOLDER --gc10 FOLDER [--draws 3] [--output DIR]

FOLDER of --corpus has a folder of images per source; --gc10 GC10-DET's images/, instances.json and
splits.json; NEU-DET and Magnetic-Tile are read from $DETECTRON2_DATASETS. Killed at any moment, it
goes on when called again. --report-only prints the table of what is finished.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.corpus.arms import ARMS, usable_images
from benchmarks.corpus.held_out import held_out_sets
from benchmarks.corpus.measuring import judge, spread
from benchmarks.corpus.training import agbp_config, arm_maps
from benchmarks.machine import describe_machine
from detectron2_agssp.engine.stages import train_on_maps
from detectron2_agssp.io.files import read_json, write_json
from detectron2_agssp.io.images import list_images

LEVELS = ("res4", "res5")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="a folder per source")
    parser.add_argument("--gc10", type=Path, required=True, help="folder of GC10-DET")
    parser.add_argument("--output", type=Path, default=Path("output/corpus"), help="%(default)s")
    parser.add_argument("--draws", type=int, default=3, help="of images and seeds (3)")
    parser.add_argument("--iterations", type=int, default=200, help="of 8 crops (200)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--report-only", action="store_true", help="the table, no runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cells = args.output / "cells"
    if not args.report_only:
        sets = held_out_sets(args.output, args.gc10)
        references = [path for images, _ in sets.values() for path in images.iterdir()]
        corpus = usable_images(args.corpus, references, args.output / "usable.json")
        _measure_start(args, sets, cells / "imagenet_0.json")
        for draw in range(args.draws):
            for name in ARMS:
                _measure(args, name, draw, corpus, sets, cells / f"{name}_{draw}.json")
    print(report(cells, args.iterations))


def _measure_start(args, sets, path: Path) -> None:
    if not path.exists():
        cfg = agbp_config(args.output, "none", 0, 0.0, args.iterations)
        write_json(path, judge(cfg, "imagenet", sets, args.output / "energies" / path.stem))


def _measure(args, name: str, draw: int, corpus, sets, path: Path) -> None:
    if path.exists():
        return
    images, maps = arm_maps(args.output, name, draw, args.corpus, corpus)
    run = args.output / "runs" / path.stem
    cfg = agbp_config(run, f"corpus_{maps.name}", draw, ARMS[name].power, args.iterations)
    start = time.perf_counter()
    weights = train_on_maps(cfg, images, maps, progress=False)
    seconds = time.perf_counter() - start
    figures = judge(cfg, str(weights), sets, args.output / "energies" / path.stem)
    write_json(path, {**figures, "seconds": seconds, "images": len(list(list_images(images)))})
    print(f"{path.stem}: trained in {seconds:.0f} s", flush=True)


def report(cells: Path, iterations: int) -> str:
    """A row an arm, the means over its draws and their standard deviations."""
    arms = {"imagenet": "ImageNet, without AGBP", **{name: arm.title for name, arm in ARMS.items()}}
    rows, sets = [], ["NEU-DET", "Magnetic-Tile", "GC10-DET"]
    for name, title in arms.items():
        draws = [read_json(path) for path in sorted(cells.glob(f"{name}_[0-9].json"))]
        if not draws:
            continue
        row = [title, len(draws), f"{draws[0]['images']:,}" if "images" in draws[0] else ""]
        row += [spread([d["rank"][level] for d in draws], 1) for level in LEVELS]
        for level in LEVELS:
            row += [spread([d["sets"][s]["auroc"][level] for d in draws], 3) for s in sets]
        for s in sets:
            pairs = [[d["sets"][s][figure] for d in draws] for figure in ("precision", "recall")]
            row.append(" / ".join(f"{statistics.mean(values):.3f}" for values in pairs))
        rows.append(row)
    short = ["NEU", "MT", "GC10"]
    ranks = tabulate(
        [row[:5] for row in rows],
        ["pretraining set", "draws", "images", *(f"rank {level}" for level in LEVELS)],
        tablefmt="github",
        disable_numparse=True,
    )
    header = [f"{level} {name}" for level in LEVELS for name in short]
    aurocs = tabulate(
        [[row[0], *row[5:11]] for row in rows],
        ["AUROC of energies", *header],
        tablefmt="github",
        disable_numparse=True,
    )
    boxes = tabulate(
        [[row[0], *row[11:]] for row in rows],
        ["precision / recall of boxes", *short],
        tablefmt="github",
        disable_numparse=True,
    )
    where = f"{describe_machine()}; {iterations} iterations of 8 crops"
    return "\n\n".join((where, ranks, aurocs, boxes))


if __name__ == "__main__":
    main()
