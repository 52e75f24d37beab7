"""The HTML report of a folder of predictions: counts per class, and the images by score."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.io.images import read_image
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.reports.page import picture, write_page
from detectron2_agssp.visualization import colorize, message_tile, overlay, panel_row

# Pictures, and rows of the table: a page of thousands does not open.
NUM_PICTURES = 60
_NUM_ROWS = 1000
_NUM_SKIPPED = 50
_HEIGHT = 320  # pixels of a picture beside its map


class MapsBeside:
    """The maps of a map folder by image, to be shown beside detections.

    Args:
        map_root: the folder.

    Raises:
        FileNotFoundError, ValueError: it is no map folder.
    """

    def __init__(self, map_root: str | Path):
        store = MapStore(map_root)
        self.paths = {entry["image"]: store.root / entry["map"] for entry in store.entries()}
        self.root = store.root

    def __call__(self, image: str, drawn: np.ndarray) -> np.ndarray:
        """The picture ``drawn`` (H, W, 3) of an image, its map and the map's overlay in a row."""
        height, width = drawn.shape[:2]
        titles = ["detections", "anomaly map", "overlay"]
        if image not in self.paths:
            missing = message_tile("no map", height, width)
            return panel_row([drawn, missing], titles[:2], _HEIGHT)
        anomaly_map = load_map(self.paths[image])
        tiles = [drawn, colorize(anomaly_map, height, width), overlay(drawn, anomaly_map)]
        return panel_row(tiles, titles, _HEIGHT)


def write_prediction_report(
    path: str | Path,
    entries: Sequence[dict],
    classes: Sequence[str],
    *,
    values: Mapping[str, Any],
    picture_of: Callable[[str], Path],
    skipped: Sequence[dict],
    maps: MapsBeside | None = None,
) -> Path:
    """Writes the page.

    Args:
        path: of the page.
        entries: of each image ``image``, ``boxes``, ``scores`` and ``classes``.
        classes: names.
        values: to be named at the beginning, such as the run.
        picture_of: image -> file of its picture with boxes, which need not be there.
        skipped: of images that could not be read ``image`` and ``reason``.
        maps: shown beside the detections.

    Raises:
        ValueError: ``maps`` has none of these images, or a map is damaged.
    """
    if maps is not None and not any(entry["image"] in maps.paths for entry in entries):
        raise ValueError(
            f"{maps.root} has no map of any of these images, such as {entries[0]['image']}: make "
            "it of the same folder."
        )
    by_score = sorted(entries, key=lambda entry: -max(entry["scores"], default=0))
    found = [entry for entry in by_score if entry["scores"]]
    sections: list[dict[str, Any]] = [
        {
            "title": "Overview",
            "values": {
                **values,
                "images": len(entries),
                "with detections": len(found),
                "detections": sum(len(entry["scores"]) for entry in found),
            },
            "table": _class_table(found, classes),
        }
    ]
    if skipped:
        sections.append(_skipped_section(skipped))
    drawn = [entry for entry in found[:NUM_PICTURES] if picture_of(entry["image"]).is_file()]
    sections.append(
        {
            "title": "Images by score",
            "text": [_about_pictures(len(drawn), len(found))],
            "pictures": [_picture(entry, classes, picture_of, maps) for entry in drawn],
        }
    )
    sections.append(_image_section(by_score, classes))
    return write_page(path, "sections.html", title="Predictions", sections=sections)


def _class_table(found: Sequence[dict], classes: Sequence[str]) -> dict[str, Any]:
    scores: dict[int, list[float]] = {kind: [] for kind in range(len(classes))}
    images: Counter[int] = Counter()
    for entry in found:
        images.update(set(entry["classes"]))
        for kind, score in zip(entry["classes"], entry["scores"], strict=True):
            scores[kind].append(score)
    return {
        "headers": ["class", "detections", "images", "median score"],
        "rows": [
            [name, len(own), images[kind], float(np.median(own)) if own else None]
            for (kind, own), name in zip(scores.items(), classes, strict=True)
        ],
        "caption": "Detections per class, and the images that have any.",
    }


def _skipped_section(skipped: Sequence[dict]) -> dict[str, Any]:
    lines = [f"{entry['image']}: {entry['reason']}" for entry in skipped[:_NUM_SKIPPED]]
    return {
        "title": "Skipped",
        "warnings": [f"{len(skipped)} images could not be read; skipped.jsonl lists them all."],
        "details": {f"The first {len(lines)}, with the reasons": "\n".join(lines)},
    }


def _about_pictures(shown: int, found: int) -> str:
    if not found:
        return "No image has a detection: try a lower threshold."
    if not shown:
        return "No pictures were written."
    more = f"The {shown} with the highest scores of {found}; pictures/ has all." * (shown < found)
    return f"By the highest score of each. {more} A click enlarges."


def _picture(
    entry: dict,
    classes: Sequence[str],
    picture_of: Callable[[str], Path],
    maps: MapsBeside | None,
) -> dict[str, Any]:
    drawn = read_image(picture_of(entry["image"]))
    if maps is not None:
        drawn = maps(entry["image"], drawn)
    caption = f"{entry['image']}: {_listed(entry, classes)}"
    return picture(drawn, caption, max_side=1400, wide=maps is not None)


def _listed(entry: dict, classes: Sequence[str]) -> str:
    """ "2 scratch, 1 pit" """
    counts = Counter(entry["classes"])
    return ", ".join(f"{count} {classes[kind]}" for kind, count in sorted(counts.items()))


def _image_section(by_score: Sequence[dict], classes: Sequence[str]) -> dict[str, Any]:
    rows = [
        [
            entry["image"],
            len(entry["scores"]),
            max(entry["scores"], default=None),
            _listed(entry, classes),
        ]
        for entry in by_score[:_NUM_ROWS]
    ]
    caption = "Images by their highest score."
    if len(by_score) > len(rows):
        caption += f" The first {len(rows):,} of {len(by_score):,}; predictions.json has all."
    headers = ["image", "detections", "highest score", "classes"]
    return {
        "title": "All images",
        "table": {"headers": headers, "rows": rows, "caption": caption},
    }
