"""The HTML page at the end of fine-tuning: curves, AP per class, what is taken for what, and the
worst mistakes as pictures."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detectron2_agssp.evaluation.class_precision import class_precisions
from detectron2_agssp.evaluation.mistakes import MIN_IOU, Mistakes, find_mistakes
from detectron2_agssp.io.coco import to_xyxy
from detectron2_agssp.io.images import read_image
from detectron2_agssp.reports.figures import lines
from detectron2_agssp.reports.page import picture, write_page
from detectron2_agssp.visualization import draw_boxes
from detectron2_agssp.visualization.drawing import TRUTH_COLOR

NUM_PICTURES = 12  # of misses, and of false alarms
NUM_BOXES = 10  # of detections in one
_MAX_POINTS = 400  # of a curve
_METRICS = ("AP", "AP50")
_SIDE = 480  # pixels of a picture


def write_training_report(
    path: str | Path,
    *,
    values: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    labels: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_root: str | Path,
    threshold: float,
    runs: Sequence[Mapping[str, Any]] = (),
    prefix: str = "bbox/",
) -> Path:
    """Writes the page.

    Args:
        path: of the page.
        values: to be named at the beginning, such as the weights.
        records: of Detectron2's ``metrics.json``, in order.
        labels: of the validation set, a COCO dict.
        results: COCO results of the weights on it.
        image_root: folder of its images; one that cannot be read has no picture.
        threshold: score from which a detection counts as one.
        runs: of this run and others beside it ``run``, ``rate``, ``iterations`` and ``AP``.
        prefix: of the metrics in ``records``.
    """
    rows = class_precisions(labels, results)
    mistakes = find_mistakes(labels, results, threshold)
    sections: list[dict[str, Any]] = [
        {
            "title": "Result",
            "values": {
                **values,
                "images": len(labels["images"]),
                "AP": f"{rows[-1].ap:.1f} ({rows[-1].low:.1f} to {rows[-1].high:.1f})",
                "score that counts": round(threshold, 3),
            },
            "table": _class_table(rows),
        },
        {"title": "Curves", "figures": _curves(records, prefix)},
        _confusion(mistakes, [category["name"] for category in labels["categories"]]),
        _pictures(
            "Worst misses",
            f"Labels that no detection matches, the detector's lowest score first. {_COLORS}",
            mistakes.misses,
            (labels, results, image_root, threshold),
        ),
        _pictures(
            "Worst false alarms",
            f"Detections on no label, by falling score. {_COLORS} What is a defect without a label "
            "is found here, too.",
            mistakes.false_alarms,
            (labels, results, image_root, threshold),
        ),
    ]
    if runs:
        sections.insert(2, _rates(runs))
    return write_page(path, "sections.html", title="Training", sections=sections)


_COLORS = f"Labels are green; detections, {NUM_BOXES} at most, are orange, with their scores."


def _class_table(rows) -> dict[str, Any]:
    return {
        "headers": ["class", "labels", "AP", "from", "to", "AP50"],
        "rows": [[row.name, row.labels, row.ap, row.low, row.high, row.ap50] for row in rows],
        "decimals": 1,
        "caption": "AP over IoU 0.5 to 0.95 and at 0.5, in percent; between from and to lie 95 % "
        "of the APs on as many images drawn from these.",
    }


def _curves(records: Sequence[Mapping[str, Any]], prefix: str) -> list[tuple[Any, str]]:
    losses = sorted({name for record in records for name in record if name.startswith("loss")})
    figures = [
        (
            {name: _series(records, name) for name in ("total_loss", *losses)},
            "loss",
            "Losses of the training images.",
        ),
        (
            {name: _series(records, prefix + name) for name in _METRICS},
            "percent",
            "AP on the validation set.",
        ),
        ({"learning rate": _series(records, "lr")}, "learning rate", "Learning rate."),
    ]
    return [
        (drawing, caption)
        for series, label, caption in figures
        if (drawing := lines(series, x_label="iteration", y_label=label))
    ]


def _series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    pairs = {record["iteration"]: record[name] for record in records if name in record}
    points = sorted(pairs.items())[:: max(1, len(pairs) // _MAX_POINTS)]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def _rates(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "title": "Learning rates tried",
        "table": {
            "headers": ["run", "learning rate", "iterations", "best AP"],
            "rows": [
                [run["run"], f"{run['rate']:g}", run["iterations"], run["AP"]] for run in runs
            ],
            "decimals": 1,
            "best": (3,),
            "caption": "This run, and those in the folders beside it on the same data.",
        },
    }


def _confusion(mistakes: Mistakes, names: Sequence[str]) -> dict[str, Any]:
    table = mistakes.confusion.tolist()
    rows = [[name, *row] for name, row in zip([*names, "no label"], table, strict=True)]
    # Nothing without a label goes undetected: the corner means nothing.
    rows[-1][-1] = None
    return {
        "title": "What is taken for what",
        "table": {
            "headers": ["label", *names, "missed"],
            "rows": rows,
            "caption": f"Labels by the class of the detection that matches them (IoU {MIN_IOU}, "
            "whatever its class), and detections on no label.",
        },
    }


def _pictures(
    title: str,
    text: str,
    entries: Sequence[Mapping[str, Any]],
    of_what: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], str | Path, float],
) -> dict[str, Any]:
    labels, results, image_root, threshold = of_what
    names = {image["id"]: image["file_name"] for image in labels["images"]}
    classes = {category["id"]: category["name"] for category in labels["categories"]}
    of_image: dict[Any, tuple[list, list]] = defaultdict(lambda: ([], []))
    for entry in labels["annotations"]:
        of_image[entry["image_id"]][0].append(entry)
    for entry in results:
        if entry["score"] >= threshold:
            of_image[entry["image_id"]][1].append(entry)
    # An image is shown once.
    first: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        first[entry["image_id"]].append(entry)
    shown = []
    for image_id, own in list(first.items())[:NUM_PICTURES]:
        try:
            image = read_image(Path(image_root) / names[image_id])
        except (OSError, ValueError):
            continue
        image, scale = _reduced(image)
        boxes, found = of_image[image_id]
        if boxes:
            image = draw_boxes(image, _scaled(boxes, scale), color=TRUTH_COLOR)
        # A detector of a short training finds a hundred boxes: those in question first.
        found = sorted(found, key=lambda entry: (entry not in own, -entry["score"]))[:NUM_BOXES]
        if found:
            texts = [f"{classes[entry['category_id']]} {entry['score']:.2f}" for entry in found]
            image = draw_boxes(image, _scaled(found, scale), texts)
        counts = Counter(classes[entry["category_id"]] for entry in own)
        kinds = ", ".join(f"{count} {name}" for name, count in counts.items())
        shown.append(picture(image, f"{names[image_id]}: {kinds}"))
    if not entries:
        text = "None at this threshold."
    return {"title": f"{title} ({len(entries)})", "text": [text], "pictures": shown}


def _reduced(image: np.ndarray) -> tuple[np.ndarray, float]:
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=kind), scale


def _scaled(entries: Sequence[Mapping[str, Any]], scale: float) -> np.ndarray:
    return (to_xyxy(entries) * scale).astype(np.float32)
