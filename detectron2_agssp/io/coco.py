"""COCO files as dicts, and registering them."""

import json
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

REQUIRED = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}


def read_coco(path: Path) -> dict:
    """A COCO file as a dict.

    Raises:
        FileNotFoundError, ValueError: no such file, or not COCO.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no COCO file {str(path)!r}.")
    try:
        content = json.loads(path.read_text())
        for key, fields in REQUIRED.items():
            for record in content[key]:
                for name in fields:
                    record[name]  # or KeyError
        return {key: content[key] for key in REQUIRED}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a COCO json ({type(error).__name__}: {error}).") from error


def subset(coco: dict, ids: set[int]) -> dict:
    """The images of those ids, their annotations, and all else."""
    images = [image for image in coco["images"] if image["id"] in ids]
    annotations = [one for one in coco["annotations"] if one["image_id"] in ids]
    return {**coco, "images": images, "annotations": annotations}


def register_coco(name: str, path: str | Path, image_root: str | Path) -> None:
    """Registers a COCO file with Detectron2; registering a name again replaces it."""
    forget_dataset(name)
    register_coco_instances(name, {}, str(path), str(image_root))


def forget_dataset(name: str) -> None:
    """Takes a data set out of Detectron2's catalogs, if it is there."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
