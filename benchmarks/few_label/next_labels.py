"""Labels the images that ``agssp next`` chooses, instead of drawing them: does the choice pay?

    python -m benchmarks.few_label.next_labels --config-file FILE --fraction 5 --to 10

From each detector of the smaller share that a benchmark has trained it writes a draw of the larger
share beside the data set's own (``annotations/next_10pct_draw0.json``): the images of the smaller
draw, and as many chosen ones as make it as large as the random draw, with their withheld labels.
``neu_det_next.yaml`` is the benchmark of those.
"""

import os
from pathlib import Path

from benchmarks.few_label.arms import REFERENCE, Maps
from benchmarks.few_label.data import labeled_split
from benchmarks.few_label.results import read_cells, run_of
from benchmarks.few_label.settings import CONFIGS, Benchmark, load_benchmark
from benchmarks.few_label.training import Workspace
from detectron2_agssp.inference.next_images import next_images
from detectron2_agssp.io.coco import read_coco, subset, write_coco
from detectron2_agssp.utils.command_line import CommandParser, readable_errors

NAME = "next_{fraction:g}pct_draw{draw}.json"


def write_draws(
    benchmark: Benchmark, output: Path, results: Path, fraction: float, target: float
) -> list[str]:
    """Writes a draw for each run of the reference with ``fraction`` percent of the labels.

    Args:
        benchmark: whose runs they are; its fractions include both.
        output, results: its folders.
        fraction: percent of the labels that the detector was trained on.
        target: percent to label in all, larger.

    Returns:
        a line for each draw: images and boxes, of the random draw beside it.

    Raises:
        FileNotFoundError: no run of that share is finished.
    """
    cells = [
        cell
        for cell in read_cells(results)
        if cell["arm"] == REFERENCE and cell["fraction"] == fraction
    ]
    if not cells:
        raise FileNotFoundError(
            f"{results} has no finished {REFERENCE} of {fraction:g} %: run the benchmark with "
            f"--arms {REFERENCE} --fractions {fraction:g} first."
        )
    workspace = Workspace(benchmark, CONFIGS, output)
    data, settings = workspace.data, benchmark.data
    data.register()
    maps = Maps("maps", {})
    if not workspace.maps_done(maps):
        workspace.make_maps(maps)
    train = read_coco(settings.folder / settings.train)
    ids = {
        os.path.realpath(settings.folder / settings.images / image["file_name"]): image["id"]
        for image in train["images"]
    }
    lines = []
    for cell in cells:
        draw = cell["draw"]
        before = read_coco(data.root / f"{labeled_split(fraction, draw)}.json")
        random = read_coco(data.root / f"{labeled_split(target, draw)}.json")
        chosen = next_images(
            run_of(output, cell),
            data.unlabeled,
            output / "next" / f"draw{draw}.txt",
            count=len(random["images"]) - len(before["images"]),
            maps=workspace.map_root(maps),
        )
        wanted = {image["id"] for image in before["images"]}
        wanted |= {ids[os.path.realpath(data.unlabeled / name)] for name in chosen}
        path = settings.folder / "annotations" / NAME.format(fraction=target, draw=draw)
        labeled = subset(train, wanted)
        write_coco(path, labeled)
        lines.append(f"{path}: {_counts(labeled)}; drawn at random: {_counts(random)}")
    return lines


def _counts(coco: dict) -> str:
    names = {category["id"]: category["name"] for category in coco["categories"]}
    boxes = [names[annotation["category_id"]] for annotation in coco["annotations"]]
    by_class = ", ".join(f"{boxes.count(name)} {name}" for name in names.values())
    return f"{len(coco['images'])} images, {len(boxes)} boxes ({by_class})"


def main() -> None:
    parser = CommandParser("python -m benchmarks.few_label.next_labels", __doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the benchmark")
    parser.add_argument("--output", type=Path, help="as of the benchmark")
    parser.add_argument("--results", type=Path, help="as of the benchmark")
    parser.add_argument("--fraction", type=float, required=True, help="percent labelled so far")
    parser.add_argument("--to", type=float, required=True, help="percent to be labelled in all")
    args = parser.parse()
    with readable_errors():
        benchmark = load_benchmark(args.config_file, fractions=(args.fraction, args.to))
        output, results = benchmark.folders(args.output, args.results)
        for line in write_draws(benchmark, output, results, args.fraction, args.to):
            print(line)


if __name__ == "__main__":
    main()
