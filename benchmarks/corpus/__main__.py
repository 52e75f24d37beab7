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
from benchmarks.corpus.arms import ARMS, LABELLED, chosen_images, link_images, usable_images
from benchmarks.corpus.measuring import judge
from benchmarks.machine import describe_machine
from detectron2_agssp.engine.runs import run_config
from detectron2_agssp.engine.stages import (
    make_maps,
    maps_finished,
    train_on_maps,
    training_config,
)
from detectron2_agssp.io.coco import read_coco, write_coco
from detectron2_agssp.io.files import datasets_root, read_json, write_json

HELD_OUT = 100
AGBP = "agssp://agbp/lite0.yaml"
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
        sets = _held_out(args)
        references = [path for images, _ in sets.values() for path in images.iterdir()]
        corpus = usable_images(args.corpus, references, args.output / "usable.json")
        _measure_start(args, sets, cells / "imagenet_0.json")
        for draw in range(args.draws):
            for name in ARMS:
                _measure(args, name, draw, corpus, sets, cells / f"{name}_{draw}.json")
    print(report(cells, args.iterations))


def _held_out(args) -> dict[str, tuple[Path, Path]]:
    """Every n-th of each set's test images, as links and COCO json."""
    prepared = datasets_root()
    sources = {
        "NEU-DET": (prepared / "neu_det/images", prepared / "neu_det/annotations/test.json"),
        "Magnetic-Tile": (
            prepared / "magnetic_tile/images",
            prepared / "magnetic_tile/annotations/test.json",
        ),
        "GC10-DET": (args.gc10 / "images", args.gc10 / "instances.json"),
    }
    stems = set(read_json(args.gc10 / "splits.json")["test"])
    sets = {}
    for name, (root, labels) in sources.items():
        coco = read_coco(labels)
        wanted = {entry["image_id"] for entry in coco["annotations"]}
        images = [image for image in coco["images"] if image["id"] in wanted]
        if name == "GC10-DET":
            images = [image for image in images if Path(image["file_name"]).stem in stems]
        images = sorted(images, key=lambda image: image["file_name"])
        images = images[:: max(1, len(images) // HELD_OUT)][:HELD_OUT]
        folder = args.output / "held_out" / name
        link_images(folder.parent, {"corpus": root}, {name: [im["file_name"] for im in images]})
        ids = {image["id"] for image in images}
        path = folder.parent / f"{name}.json"
        write_coco(
            path,
            {
                **coco,
                "images": [
                    {**image, "file_name": Path(image["file_name"]).name} for image in images
                ],
                "annotations": [e for e in coco["annotations"] if e["image_id"] in ids],
            },
        )
        sets[name] = folder, path
    return sets


def _config(args, output: Path, dataset: str, seed: int, power: float):
    options = {
        "INPUT.MIN_SIZE_TRAIN": (128, 256),
        "INPUT.CROP.SIZE": [128, 128],
        "INPUT.MIN_SIZE_TEST": 256,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.MAX_ITER": args.iterations,
        "SOLVER.WARMUP_ITERS": args.iterations // 10,
        "SOLVER.CHECKPOINT_PERIOD": args.iterations,
        "DATALOADER.NUM_WORKERS": 0,
        "VIS_PERIOD": 0,
        "SEED": seed,
    }
    if power:
        options["DATALOADER.SAMPLER_TRAIN"] = "WeightedTrainingSampler"
        options["AGSSP.DATALOADER.SOURCE_POWER"] = power
    return training_config(AGBP, output, dataset, common=options)


def _measure_start(args, sets, path: Path) -> None:
    if not path.exists():
        cfg = _config(args, args.output, "none", 0, 0.0)
        write_json(path, judge(cfg, "imagenet", sets, args.output / "energies" / path.stem))


def _measure(args, name: str, draw: int, corpus, sets, path: Path) -> None:
    if path.exists():
        return
    arm = ARMS[name]
    # Draws of an arm that takes all images differ in the training alone.
    key = f"{name.split('_p')[0]}_{draw if arm.equal else 0}"
    maps, images = args.output / "maps" / key, args.output / "images" / key
    if not maps_finished(maps):
        root = datasets_root() / "neu_det/images"
        labelled = [
            image["file_name"]
            for image in read_coco(root.parent / "annotations/train.json")["images"]
        ]
        chosen = chosen_images(arm, corpus, labelled, draw)
        link_images(images, {"corpus": args.corpus, LABELLED: root}, chosen)
        options = {
            "AGSSP.SCORER.IMAGE_SIZE": 192,
            "AGSSP.SCORER.DEVICE": "cpu",
            "AGSSP.SCORER.NUM_WORKERS": 0,
        }
        cfg = run_config("agssp://maps/mahalanobis.yaml", args.output, options)
        make_maps(cfg, images, maps, progress=False)
    run = args.output / "runs" / path.stem
    cfg = _config(args, run, f"corpus_{key}", draw, arm.power)
    start = time.perf_counter()
    weights = train_on_maps(cfg, images, maps, progress=False)
    seconds = time.perf_counter() - start
    figures = judge(cfg, str(weights), sets, args.output / "energies" / path.stem)
    write_json(path, {**figures, "seconds": seconds, "images": len(read_json_lines(maps))})
    print(f"{path.stem}: trained in {seconds:.0f} s", flush=True)


def read_json_lines(maps: Path) -> list[str]:
    return (maps / "manifest.jsonl").read_text().splitlines()


def report(cells: Path, iterations: int) -> str:
    """A row an arm, the means over its draws and their standard deviations."""
    arms = {"imagenet": "ImageNet, without AGBP", **{name: arm.title for name, arm in ARMS.items()}}
    rows, sets = [], ["NEU-DET", "Magnetic-Tile", "GC10-DET"]
    for name, title in arms.items():
        draws = [read_json(path) for path in sorted(cells.glob(f"{name}_[0-9].json"))]
        if not draws:
            continue
        row = [title, len(draws), f"{draws[0]['images']:,}" if "images" in draws[0] else ""]
        row += [_spread([d["rank"][level] for d in draws], 1) for level in LEVELS]
        for level in LEVELS:
            row += [_spread([d["sets"][s]["auroc"][level] for d in draws], 3) for s in sets]
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


def _spread(values: list[float], decimals: int) -> str:
    text = f"{statistics.mean(values):.{decimals}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{decimals}f}"
    return text


if __name__ == "__main__":
    main()
