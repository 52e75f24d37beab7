"""Registers what ``datasets/prepare_*.py`` made, the way Detectron2 registers COCO."""

import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from detectron2_agssp.data.formats.layout import PLACED
from detectron2_agssp.io.coco import class_names
from detectron2_agssp.io.files import datasets_root

# A class has the COCO category id of its position, from 1.
CLASSES = {
    "neu_det": (
        "crazing",
        "inclusion",
        "patches",
        "pitted_surface",
        "rolled-in_scale",
        "scratches",
    ),
    "magnetic_tile": ("Blowhole", "Break", "Crack", "Fray", "Uneven"),
}


def register_builtin_datasets(root: str | os.PathLike | None = None) -> list[str]:
    """Registers the prepared sets below ``root``; returns the names it newly registered.

    ``root`` defaults to ``$DETECTRON2_DATASETS``, and that to ``datasets``. A prepared set is
    ``<dataset>_<split>`` for every ``<dataset>/annotations/<split>.json``; NEU-DET's and
    Magnetic-Tile's ``train`` and ``test`` are always registered. No image and no box is read
    before a data set is used; using one that is not there raises FileNotFoundError, which names
    the script that makes it.

    A name that is registered already is left alone.
    """
    parent = datasets_root() if root is None else Path(root).expanduser()
    registered = []
    prepared = {path.parent.name for path in parent.glob(f"*/{PLACED}")}
    for dataset in [*CLASSES, *sorted(prepared - CLASSES.keys())]:
        folder = parent / dataset
        found = {path.stem for path in (folder / "annotations").glob("*.json")}
        for split in sorted(found | ({"train", "test"} if dataset in CLASSES else set())):
            name = f"{dataset}_{split}"
            if name not in DatasetCatalog:
                _register(name, dataset, folder / "annotations" / f"{split}.json")
                registered.append(name)
    return registered


def _register(name: str, dataset: str, json_file: Path) -> None:
    """As ``register_coco_instances``, but for the classes being known and the error being clear."""
    image_root = str(json_file.parents[1] / "images")

    def load() -> list[dict]:
        if not json_file.is_file():
            raise FileNotFoundError(
                f"data set {name!r} is not prepared: there is no {json_file}. Make it with "
                f"`python datasets/prepare_{dataset}.py SOURCE_DIR`, or set DETECTRON2_DATASETS "
                f"to the folder that holds {dataset}/"
            )
        return load_coco_json(str(json_file), image_root, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=image_root,
        evaluator_type="coco",
        # Loading compares them with the file's, where there is one.
        thing_classes=class_names(json_file) or list(CLASSES.get(dataset, ())),
    )
