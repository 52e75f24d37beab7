"""The folder of predictions: ``detections.jsonl``, ``skipped.jsonl``, ``run.json``, ``pictures/``,
``predictions.json``.

``detections.jsonl`` has one object per image (``image``, ``height``, ``width``, ``boxes``,
``scores``, ``classes``, perhaps ``masks``, and by what a later run tells whether the file is the
same); a killed run leaves whole lines, and the next goes on from there. ``predictions.json`` is
made of them at the end: while it is not there, the folder is not finished.
"""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectron2_agssp.inference.detector import Detections
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image, write_coco
from detectron2_agssp.io.files import (
    TEMPORARY_PATTERN,
    atomic_write,
    named_when_full,
    only_run,
    read_json,
    user_path,
    write_json,
)
from detectron2_agssp.maps.manifest import append_lines, json_line, truncate_unfinished_line
from detectron2_agssp.maps.store import derived_name
from detectron2_agssp.utils.differences import differences
from detectron2_agssp.utils.naming import some_of

FULL = "What was predicted is whole: make room and run the same command again."


class PredictionStore:
    """A folder of predictions, for resumable writing.

    Args:
        root: the folder; created by :meth:`opened`.
    """

    def __init__(self, root: str | Path):
        self.root = user_path(root)
        self.lines_path = self.root / "detections.jsonl"
        self.skipped_path = self.root / "skipped.jsonl"
        self.settings_path = self.root / "run.json"
        self.result_path = self.root / "predictions.json"
        self.pictures = self.root / "pictures"

    @contextlib.contextmanager
    def opened(self, settings: dict[str, Any]) -> Iterator[None]:
        """Keeps other runs out of the folder until the block ends, once it is known that it is a
        folder of the same ``settings``, or a new one.

        Raises:
            OSError: another run is writing.
            ValueError: it holds the predictions of other settings (they are named), predictions
                that do not say of what, or files of something else.
        """
        with only_run(self.root):
            self._check(settings)
            for temporary in self.root.glob(TEMPORARY_PATTERN):
                temporary.unlink()
            if self.lines_path.exists():
                truncate_unfinished_line(self.lines_path)
            with named_when_full(self.root, FULL):
                yield

    def _check(self, settings: dict[str, Any]) -> None:
        way_out = "Name another folder, or delete it."
        if not self.settings_path.exists():
            there = [path.name for path in (self.lines_path, self.result_path) if path.exists()]
            if there:
                raise ValueError(
                    f"{self.root} holds {there[0]}, but no run.json that says of what. {way_out}"
                )
            # Those of a map folder, say, which would be written over.
            others = sorted(path.name for path in self.root.iterdir() if path.name[0] != ".")
            if others:
                raise ValueError(
                    f"{self.root} holds files of something else ({some_of(others)}). Name a folder "
                    "that is empty or not there yet."
                )
            write_json(self.settings_path, settings)
            return
        recorded = read_json(self.settings_path)
        if not isinstance(recorded, dict):
            raise ValueError(f"{self.settings_path} is damaged: no JSON object. {way_out}")
        # As it would be read again.
        differ = list(differences(recorded, json.loads(json.dumps(settings))))
        if differ:
            lines = [f"{key}: {old} there, {new} here" for key, old, new in differ[:5]]
            raise ValueError(
                f"{self.root} holds the predictions of another run or other settings. {way_out}\n"
                + "\n".join(lines)
            )

    def recorded(self) -> dict[str, dict]:
        """Image -> its last line.

        Raises:
            ValueError: a line that no run wrote (it is named).
        """
        entries: dict[str, dict] = {}
        if not self.lines_path.exists():
            return entries
        number = 0
        try:
            with open(self.lines_path, encoding="utf-8") as file:
                for line in file:
                    number += 1
                    entry = json.loads(line)
                    check_entry(entry)
                    entries[entry["image"]] = entry
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{self.lines_path}:{number} is damaged ({error}). Delete the line: its "
                "image is predicted again."
            ) from error
        return entries

    def begin(self) -> None:
        """Says that the folder is not finished."""
        self.result_path.unlink(missing_ok=True)

    def append(self, entries: Iterable[dict]) -> None:
        """Adds lines, in one write. Their pictures must be written already."""
        append_lines(self.lines_path, entries)

    def finish(self, names: Iterable[str], skipped: Sequence[dict]) -> list[dict]:
        """Puts the lines in the order of ``names``, and writes ``skipped.jsonl``; the lines and
        pictures of other images go.

        Returns:
            the entries of these images.
        """
        recorded = self.recorded()
        failed = {failure["image"] for failure in skipped}
        entries = [recorded[name] for name in names if name in recorded and name not in failed]
        kept = {self.picture(entry["image"]) for entry in entries}
        for path in {self.picture(image) for image in recorded} - kept:
            path.unlink(missing_ok=True)
        for path, lines in ((self.lines_path, entries), (self.skipped_path, skipped)):
            with atomic_write(path) as file:
                file.writelines(map(json_line, lines))
        return entries

    def write_result(self, entries: Collection[dict], classes: Sequence[str]) -> None:
        """``predictions.json``: the folder is finished."""
        write_coco(self.result_path, coco_of(entries, classes))

    def picture(self, image: str) -> Path:
        """File of an image's picture, inside the folder whatever the image's name."""
        parts = [part for part in image.replace("\\", "/").split("/") if part.strip(".")]
        return self.pictures / derived_name("/".join(parts), ".jpg")


def as_entry(image: str, size: Sequence[int], found: Detections, state: dict) -> dict:
    """A line of ``detections.jsonl``; ``size`` begins with height and width."""
    lists = {
        key: found[key].tolist() if key == "classes" else shortest(found[key])
        for key in ("boxes", "scores", "classes")
    }
    if "masks" in found:
        lists["masks"] = found["masks"]
    return {"image": image, "height": size[0], "width": size[1], **lists, **state}


def shortest(values: torch.Tensor) -> Any:
    """A float32 tensor as nested lists of the shortest decimals that read as the same float32."""
    flat = [float(str(value)) for value in values.numpy().ravel()]
    return np.array(flat).reshape(values.shape).tolist()


def check_entry(entry: dict) -> None:
    """Raises one of several errors for what :func:`as_entry` does not make."""
    found = as_detections(entry)
    sides = (entry["height"], entry["width"])
    counts = {len(found["boxes"]), len(found["scores"]), len(found["classes"])}
    if "masks" in found:
        counts.add(len(found["masks"]))
    if not isinstance(entry["image"], str) or not all(type(side) is int for side in sides):
        raise ValueError("it has no image, or no size")
    if len(counts) > 1:
        raise ValueError("it has not as many boxes as scores, classes and masks")


def as_detections(entry: dict) -> Detections:
    """What :func:`as_entry` was given."""
    found: Detections = {
        "boxes": torch.tensor(entry["boxes"], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(entry["scores"], dtype=torch.float32),
        "classes": torch.tensor(entry["classes"], dtype=torch.int64),
    }
    if "masks" in entry:
        found["masks"] = entry["masks"]
    return found


def coco_of(entries: Collection[dict], classes: Sequence[str]) -> dict:
    """A COCO dict of predictions: its annotations are COCO results (``image_id``, ``category_id``,
    ``bbox``, ``score``) with the ``file_name`` of their image. The id of a class is its index in
    the model plus 1, of an image its position, from 1."""
    images, annotations = [], []
    for image_id, entry in enumerate(entries, start=1):
        name = entry["image"]
        images.append(coco_image(image_id, name, height=entry["height"], width=entry["width"]))
        masks = entry.get("masks", [None] * len(entry["boxes"]))
        rows = zip(entry["boxes"], entry["scores"], entry["classes"], masks, strict=True)
        for (x1, y1, x2, y2), score, kind, mask in rows:
            bbox = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            more = {"score": score, "file_name": name}
            if mask is not None:
                more["segmentation"] = mask
            annotations.append(
                coco_annotation(len(annotations) + 1, image_id, kind + 1, bbox, **more)
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": coco_categories(classes),
    }
