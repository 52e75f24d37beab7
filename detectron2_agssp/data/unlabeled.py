"""Unlabelled images with anomaly maps as Detectron2 data sets."""

import json
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.io.coco import forget_dataset
from detectron2_agssp.io.files import datasets_root, user_path
from detectron2_agssp.maps.store import MapStore

# The single class of AGDP.
ANOMALY_CLASSES = ("anomaly",)
EVALUATOR_TYPE = "agssp"


def load_unlabeled(image_root: str | Path, map_root: str | Path) -> list[dict]:
    """Data set dicts of a map folder's images.

    Returns:
        One dict an image: ``file_name``, ``image_id``, ``height``, ``width``, ``map_file`` (path
        of the anomaly map), ``map_root``, ``source``.

    Raises:
        FileNotFoundError: no such folders.
        ValueError: the manifest is empty or damaged.
    """
    image_root, store = os.path.expanduser(str(image_root)), MapStore(map_root)
    # A URL is read through iopath, which says what is missing.
    if "://" not in image_root and not os.path.isdir(image_root):
        raise FileNotFoundError(
            f"Image folder {image_root!r} of the maps in {store.root} does not exist. If the "
            "images moved, call detectron2_agssp.data.register_unlabeled(name, image_root, "
            "map_root) with their new place."
        )
    dicts = [
        {
            "file_name": os.path.join(image_root, entry["image"]),
            "image_id": entry["image"],
            "height": entry["height"],
            "width": entry["width"],
            "map_file": str(store.root / entry["map"]),
            "map_root": str(store.root),
            "source": entry["source"],
        }
        for entry in store.entries()
    ]
    if not dicts:
        raise ValueError(f"The manifest of {store.root} is empty: there is nothing to train on.")
    return dicts


def register_unlabeled(name: str, image_root: str | Path, map_root: str | Path) -> None:
    """Registers a map folder as ``name`` (for AGBP) and ``name + "_boxes"`` (for AGDP).

    Nothing is read before the data set is used. Registering a name again replaces it.

    Args:
        name: of the data set in ``DATASETS.TRAIN``.
        image_root: folder that the manifest's image paths are relative to.
        map_root: the map folder, with ``manifest.jsonl``.
    """
    image_root, map_root = os.path.expanduser(image_root), user_path(map_root)
    for registered in (name, f"{name}_boxes"):
        forget_dataset(registered)
        DatasetCatalog.register(registered, lambda: load_unlabeled(image_root, map_root))
        MetadataCatalog.get(registered).set(
            image_root=str(image_root),
            # As in the data set's dicts, which thresholds are found by.
            map_root=str(map_root),
            evaluator_type=EVALUATOR_TYPE,
            thing_classes=list(ANOMALY_CLASSES),
        )


def register_map_folders(root: str | Path | None = None) -> list[str]:
    """Registers every map folder in ``<root>/agssp`` as ``agssp_<folder>[_boxes]``.

    Called on import; call it again for a folder that was made since. Folders without a manifest
    or ``scorer.json`` are passed over, and names that are registered already are left alone.

    Args:
        root: by default ``$DETECTRON2_DATASETS``, else ``datasets``.

    Returns:
        The names of the AGBP data sets registered now.
    """
    parent = (Path(root) if root is not None else datasets_root()) / "agssp"
    registered = []
    if not parent.is_dir():
        return registered
    for folder in sorted(parent.iterdir()):
        store = MapStore(folder)
        name = f"agssp_{folder.name}"
        if {name, f"{name}_boxes"} & set(DatasetCatalog.list()):
            continue
        if not store.manifest_path.exists():
            continue
        try:
            image_root = json.loads(store.scorer_path.read_text())["image_root"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        register_unlabeled(name, image_root, folder)
        registered.append(name)
    return registered
