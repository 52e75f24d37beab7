"""Unlabelled images with anomaly maps as Detectron2 data sets."""

import logging
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from detectron2_agssp.io.coco import forget_dataset, read_coco
from detectron2_agssp.io.files import datasets_root, user_path
from detectron2_agssp.io.tar_shards import image_root_of
from detectron2_agssp.maps.store import MapStore

logger = logging.getLogger(__name__)

# The single class of AGDP.
ANOMALY_CLASSES = ("anomaly",)
EVALUATOR_TYPE = "agssp"


def load_unlabeled(image_root: str | Path | None, map_root: str | Path) -> list[dict]:
    """Data set dicts of a map folder's images; arguments as for :func:`register_unlabeled`.

    Returns:
        One dict an image: ``file_name``, ``image_id``, ``height``, ``width``, ``map_file`` (path
        of the anomaly map), ``map_root``, ``source``.

    Raises:
        FileNotFoundError: no such folders.
        ValueError: the manifest is empty or damaged, or so is ``scorer.json``.
    """
    store = MapStore(map_root)
    if image_root is None:
        image_root = _recorded_image_root(store)
    image_root = image_root_of(os.path.expanduser(str(image_root)))
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


def register_unlabeled(name: str, image_root: str | Path | None, map_root: str | Path) -> None:
    """Registers a map folder as ``name`` (for AGBP) and ``name + "_boxes"`` (for AGDP).

    Nothing is read before the data set is used. Registering a name again replaces it.

    Args:
        name: of the data set in ``DATASETS.TRAIN``.
        image_root: folder, or archives, that the manifest's image paths are relative to. None:
            that which the maps were made of, which ``scorer.json`` names.
        map_root: the map folder, with ``manifest.jsonl``.
    """
    map_root = user_path(map_root)
    for registered in (name, f"{name}_boxes"):
        forget_dataset(registered)
        DatasetCatalog.register(registered, lambda: load_unlabeled(image_root, map_root))
        metadata = MetadataCatalog.get(registered)
        if image_root is not None:
            metadata.image_root = image_root_of(os.path.expanduser(image_root))
        metadata.set(
            # As in the data set's dicts, which thresholds are found by.
            map_root=str(map_root),
            evaluator_type=EVALUATOR_TYPE,
            thing_classes=list(ANOMALY_CLASSES),
        )


def register_boxes(
    name: str, image_root: str | Path | None, map_root: str | Path, boxes: str | Path
) -> None:
    """Registers a map folder's images with the boxes of a COCO file, of the one class "anomaly",
    for ``AGSSP.MAPPER DetectionMapper``. Registering a name again replaces it.

    Args:
        name: of the data set.
        image_root, map_root: as of :func:`register_unlabeled`.
        boxes: COCO json, ``file_name`` as in the map folder's manifest; images that it does not
            list are left out.
    """
    forget_dataset(name)
    DatasetCatalog.register(name, lambda: _with_boxes(load_unlabeled(image_root, map_root), boxes))
    MetadataCatalog.get(name).set(
        map_root=str(map_root),
        evaluator_type=EVALUATOR_TYPE,
        thing_classes=list(ANOMALY_CLASSES),
    )


def _with_boxes(dicts: list[dict], path: str | Path) -> list[dict]:
    """Data set dicts with ``annotations``, those that the COCO file lists."""
    coco = read_coco(path)
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    annotations: dict[str, list[dict]] = {name: [] for name in names.values()}
    for box in coco["annotations"]:
        annotations[names[box["image_id"]]].append(
            {"bbox": box["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
        )
    return [
        {**entry, "annotations": annotations[entry["image_id"]]}
        for entry in dicts
        if entry["image_id"] in annotations
    ]


def register_map_folders(root: str | Path | None = None) -> list[str]:
    """Registers every map folder in ``<root>/agssp`` as ``agssp_<folder>[_boxes]``.

    Called on import; call it again for a folder that was made since. Only names are read: folders
    without files called ``manifest.jsonl`` and ``scorer.json`` are passed over, and names that are
    registered already are left alone.

    Args:
        root: by default ``$DETECTRON2_DATASETS``, else ``datasets``.

    Returns:
        The names of the AGBP data sets registered now.
    """
    parent = (Path(root) if root is not None else datasets_root()) / "agssp"
    registered = []
    if not parent.is_dir():
        return registered
    try:
        folders = sorted(parent.iterdir())
    except OSError as error:
        logger.warning("No map folders are registered: %s", error)
        return registered
    for folder in folders:
        store = MapStore(folder)
        name = f"agssp_{folder.name}"
        if {name, f"{name}_boxes"} & set(DatasetCatalog.list()):
            continue
        # Also False where the folder cannot be entered.
        if not (os.path.isfile(store.manifest_path) and os.path.isfile(store.scorer_path)):
            continue
        register_unlabeled(name, None, folder)
        registered.append(name)
    return registered


def _recorded_image_root(store: MapStore) -> str:
    """The image folder that ``scorer.json`` names."""
    image_root = (store.read_scorer() or {}).get("image_root")
    if not isinstance(image_root, str):
        raise ValueError(
            f"{store.scorer_path} does not say which images its maps are of. Call "
            "detectron2_agssp.data.register_unlabeled(name, image_root, map_root) with their "
            "folder, or run agssp maps again."
        )
    return image_root
