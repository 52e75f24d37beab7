"""AP by size and by aspect ratio of the defects, of the runs whose predictions are there.

    python -m benchmarks.few_label.shapes --config-file benchmarks/few_label/neu_det_converged.yaml

It calls pycocotools itself, so that its AP over all boxes checks the cells', too.
"""

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from benchmarks.few_label.results import read_cells, run_of, titles_of
from benchmarks.few_label.settings import Benchmark, load_benchmark
from detectron2_agssp.utils.command_line import CommandParser, readable_errors

# An x, y, width, height box and its image's width and height -> what groups are made by.
Measure = Callable[[list[float], tuple[float, float]], float]


def relative_size(box: list[float], image: tuple[float, float]) -> float:
    """The root of the box's share of the image, in (0, 1]."""
    return float(np.sqrt(box[2] * box[3] / (image[0] * image[1])))


def aspect_ratio(box: list[float], image: tuple[float, float]) -> float:
    """The longer side over the shorter, at least 1."""
    return max(box[2:]) / max(min(box[2:]), 1e-6)


# Title -> measure and the bounds between groups; COCO's 32 and 96 pixels would say nothing about
# images of 200.
GROUPINGS: dict[str, tuple[Measure, dict[str, tuple[float, float]]]] = {
    "size": (relative_size, {"< 0.1": (0, 0.1), "0.1 to 0.3": (0.1, 0.3), "> 0.3": (0.3, 2)}),
    "aspect": (aspect_ratio, {"< 2": (0, 2), "2 to 4": (2, 4), "> 4": (4, 1e9)}),
}


def ap_by_group(truth: COCO, predictions: list[dict], measure: Measure, groups: dict) -> dict:
    """AP of the boxes of each group, as COCO does it for sizes: others and what finds them count
    neither way.

    Args:
        truth: the labels.
        predictions: of COCO's result format, boxes as x, y, width, height.
        measure: what groups are made by.
        groups: name -> lowest and highest value.

    Returns:
        name -> AP in percent (NaN where there are no such boxes); "" -> AP of all boxes.
    """
    sizes = _sizes(truth)
    with contextlib.redirect_stdout(None):
        labels = COCO()
        labels.dataset = copy.deepcopy(truth.dataset)
        labels.createIndex()
        found = labels.loadRes(predictions)
        for one in (*labels.anns.values(), *found.anns.values()):
            # pycocotools leaves out by "area", whatever that is.
            one["area"] = measure(one["bbox"], sizes[one["image_id"]])
        evaluation = COCOeval(labels, found, "bbox")
        evaluation.params.areaRng = [[0, 1e10], *groups.values()]
        evaluation.params.areaRngLbl = ["", *groups]
        evaluation.evaluate()
        evaluation.accumulate()
    # IoU, recall, class, group, detections per image.
    precision = evaluation.eval["precision"][..., -1]
    result = {}
    for index, name in enumerate(evaluation.params.areaRngLbl):
        known = precision[:, :, :, index]
        known = known[known > -1]
        result[name] = 100 * float(known.mean()) if known.size else float("nan")
    return result


def shapes_text(benchmark: Benchmark, output: str | Path, results: str | Path) -> str:
    """Markdown: for each labelled share and grouping one line an arm, mean over the draws.

    Raises:
        FileNotFoundError: none of the cells' predictions is in ``output``.
        ValueError: pycocotools' AP of some run is not its cell's.
    """
    with contextlib.redirect_stdout(None):
        truth = COCO(str(Path(output) / "data" / "test.json"))
    cells = [cell for cell in read_cells(results) if cell["fraction"] in benchmark.fractions]
    titles = titles_of(benchmark, cells)
    rows: dict[str, dict[tuple, list[dict]]] = {title: {} for title in GROUPINGS}
    for cell in cells:
        path = run_of(output, cell) / "test" / "inference" / "coco_instances_results.json"
        if not path.exists():
            continue
        predictions = json.loads(path.read_text())
        for title, (measure, groups) in GROUPINGS.items():
            aps = ap_by_group(truth, predictions, measure, groups)
            if abs(aps.pop("") - cell["test"]["AP"]) > 0.01:
                raise ValueError(f"{path} does not give the AP of its cell, {cell['test']['AP']}.")
            rows[title].setdefault((cell["fraction"], cell["arm"]), []).append(aps)
    if not any(rows.values()):
        raise FileNotFoundError(f"There are no predictions of {benchmark.name} in {output}.")
    parts = []
    for title, (measure, groups) in GROUPINGS.items():
        counts = _counts(truth, measure, groups)
        headers = ["labels", "start", "cells", *(f"{name} ({counts[name]})" for name in groups)]
        order = list(titles)
        table = [
            [f"{fraction:g} %", titles[arm], len(aps)]
            + [f"{np.mean([one[name] for one in aps]):.1f}" for name in groups]
            for (fraction, arm), aps in sorted(
                rows[title].items(), key=lambda item: (item[0][0], order.index(item[0][1]))
            )
        ]
        text = tabulate(table, headers, tablefmt="github", disable_numparse=True)
        parts.append(f"AP by {title} (boxes):\n\n{text}\n")
    return "\n".join(parts)


def _sizes(truth: COCO) -> dict[int, tuple[float, float]]:
    """Of the images: id -> (width, height)."""
    return {image["id"]: (image["width"], image["height"]) for image in truth.dataset["images"]}


def _counts(truth: COCO, measure: Measure, groups: dict) -> dict[str, int]:
    sizes = _sizes(truth)
    values = [measure(one["bbox"], sizes[one["image_id"]]) for one in truth.anns.values()]
    return {
        name: sum(low <= value <= high for value in values) for name, (low, high) in groups.items()
    }


def main() -> None:
    parser = CommandParser("python -m benchmarks.few_label.shapes", __doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the benchmark")
    parser.add_argument("--output", type=Path, help="as of the benchmark")
    parser.add_argument("--results", type=Path, help="as of the benchmark")
    parser.add_argument("--fractions", nargs="+", type=float, default=(), help="percents")
    args = parser.parse()
    with readable_errors():
        benchmark = load_benchmark(args.config_file, fractions=args.fractions)
        print(shapes_text(benchmark, *benchmark.folders(args.output, args.results)))


if __name__ == "__main__":
    main()
