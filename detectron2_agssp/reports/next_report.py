"""The HTML page of the images to label next, with maps and guessed boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.store import load_map
from detectron2_agssp.reports.page import picture, write_page
from detectron2_agssp.visualization import colorize, draw_boxes, panel_row

NUM_PICTURES = 100
_SIDE = 400  # pixels of a picture


@dataclass(frozen=True)
class NextImage:
    """A chosen image.

    Attributes:
        entry: ``image``, ``boxes``, ``scores`` and ``classes`` of the guess.
        path: its file.
        map_path: of its map; None without.
        promise: in [0, 1].
        uncertainty: of the detector, in [0, 1].
        unexplained: mean of the map outside detections, in [0, 1].
        distance: to the most similar labelled image; infinite without one.
    """

    entry: dict
    path: str
    map_path: Path | None
    promise: float
    uncertainty: float
    unexplained: float
    distance: float


def write_next_report(
    path: str | Path,
    images: Sequence[NextImage],
    classes: Sequence[str],
    *,
    values: Mapping[str, Any],
    reader: ImageReader,
) -> Path:
    """Writes the page.

    Args:
        path: of the page.
        images: in the order of choice.
        classes: names.
        values: to be named at the beginning, such as the run.
        reader: of the images.
    """
    sections: list[dict[str, Any]] = [
        {
            "title": "Choice",
            "text": [
                "In the order of choice: images that promise much, and that differ from each other "
                "and from those that are labelled. Boxes are guesses, to be corrected."
            ],
            "values": dict(values),
        },
        {
            "title": "Images",
            "pictures": [_picture(image, classes, reader) for image in images[:NUM_PICTURES]],
        },
        {"title": "Why", "table": _table(images)},
    ]
    return write_page(path, "sections.html", title="Label next", sections=sections)


def _picture(image: NextImage, classes: Sequence[str], reader: ImageReader) -> dict[str, Any]:
    pixels, boxes = reader(image.path), np.asarray(image.entry["boxes"], np.float32).reshape(-1, 4)
    scale = _SIDE / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    drawn = cv2.resize(pixels, (width, height), interpolation=kind)
    pairs = zip(image.entry["classes"], image.entry["scores"], strict=True)
    drawn = draw_boxes(drawn, boxes * scale, [f"{classes[k]} {s:.2f}" for k, s in pairs])
    if image.map_path is not None:
        tiles = [drawn, colorize(load_map(image.map_path), height, width, (0, 1))]
        drawn = panel_row(tiles, ["guess", "anomaly map"], 320)
    panels = image.map_path is not None
    return picture(drawn, image.entry["image"], max_side=1000, wide=panels)


def _table(images: Sequence[NextImage]) -> dict[str, Any]:
    rows = [
        [
            image.entry["image"],
            len(image.entry["boxes"]),
            image.promise,
            image.uncertainty,
            image.unexplained if image.map_path is not None else None,
            image.distance if np.isfinite(image.distance) else None,
        ]
        for image in images
    ]
    return {
        "headers": ["image", "boxes", "promise", "uncertainty", "unexplained map", "distance"],
        "rows": rows,
        "caption": "Promise is the mean of an image's ranks in the three after it: how near a "
        "detection's score is to the threshold, the mean of the map outside detections, and the "
        "distance of its features to the most similar labelled image.",
    }
