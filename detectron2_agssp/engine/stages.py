"""The stages of the method, each resumable: what :func:`~detectron2_agssp.pretrain` and the
benchmark of few labels are made of."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from detectron2_agssp.data.unlabeled import register_boxes, register_unlabeled
from detectron2_agssp.engine.processes import of_main
from detectron2_agssp.engine.runs import FINISHED, run_config, train
from detectron2_agssp.engine.self_training import detected_boxes
from detectron2_agssp.io.coco import write_coco
from detectron2_agssp.io.files import write_json
from detectron2_agssp.maps.generate import generate_anomaly_maps
from detectron2_agssp.maps.store import MapStore


def maps_finished(map_root: str | Path) -> bool:
    """Whether :func:`make_maps` ended there, and the manifest is what it left."""
    store = MapStore(map_root)
    try:
        record = json.loads((store.root / FINISHED).read_text())
        return record["manifest_bytes"] == store.manifest_path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def make_maps(cfg: CfgNode, images: str | Path, map_root: str | Path, *, progress: bool = True):
    """Anomaly maps of a folder of images, as
    :func:`~detectron2_agssp.maps.generate.generate_anomaly_maps`; then ``finished.json``.

    Raises:
        ValueError: none of the images could be used (the reasons are in ``skipped.jsonl``).
    """
    generate_anomaly_maps(cfg, images, map_root, progress=progress)
    of_main(lambda: _finish_maps(images, MapStore(map_root)))


def _finish_maps(images: str | Path, store: MapStore) -> None:
    if next(store.entries(), None) is None:
        raise ValueError(
            f"No image of {images} got an anomaly map; {store.skipped_path} says why. Give more "
            "images, or others."
        )
    record = {"manifest_bytes": store.manifest_path.stat().st_size}
    write_json(store.root / FINISHED, record)


def energy_maps_config(
    path: str | Path, output: str | Path, weights: str | Path, options: Mapping[str, Any]
) -> CfgNode:
    """Config of maps that the backbone of an AGBP run makes: its features' energies.

    Args:
        path: the AGBP config.
        output: folder of the run.
        weights: of the AGBP run.
        options: keys that differ, ``AGSSP.SCORER.NAME`` among them.
    """
    return run_config(path, output, {"MODEL.WEIGHTS": str(weights), **options})


def training_config(
    path: str | Path,
    output: str | Path,
    dataset: str,
    *,
    weights: str | Path | None = None,
    common: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> CfgNode:
    """Config of AGBP or AGDP on a map folder's data set.

    Args:
        path: the config.
        output: folder of the run.
        dataset: ``NAME`` of a registered map folder for AGBP, ``NAME_boxes`` for AGDP.
        weights: to start from; None for the config's own.
        common, options: keys that differ; the latter win over ``dataset`` and ``weights``, too.
    """
    own: dict[str, Any] = {"DATASETS.TRAIN": (dataset,), "DATASETS.TEST": ()}
    if weights is not None:
        own["MODEL.WEIGHTS"] = str(weights)
    return run_config(path, output, {**(common or {}), **own, **(options or {})})


def on_boxes(cfg: CfgNode, name: str) -> CfgNode:
    """Config of AGDP on the boxes of a data set of
    :func:`~detectron2_agssp.data.unlabeled.register_boxes`, in place of those cut from maps."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (name,)
    cfg.AGSSP.MAPPER = "DetectionMapper"
    # Images without a box are negatives, as PseudoBoxMapper's are.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.freeze()
    return cfg


def train_on_detections(
    cfg: CfgNode,
    images: str | Path,
    map_root: str | Path,
    before: str | Path,
    boxes_per_image: float,
    *,
    progress: bool = True,
    hooks: Sequence[HookBase] = (),
) -> Path:
    """A further round of AGDP, on the detections of the round before; they are left as
    ``boxes.json`` in its folder. Returns the final weights.

    Args:
        cfg: of :func:`training_config`, as for :func:`train_on_maps`.
        images, map_root: of the maps that the first round's boxes were cut from.
        before: folder of the round before.
        boxes_per_image: mean number of detections to learn; as many as the maps' boxes, say.
        progress, hooks: as of :func:`~detectron2_agssp.engine.runs.train`.

    Raises:
        ValueError: the round before finds nothing.
    """
    (of_maps,) = cfg.DATASETS.TRAIN
    name = of_maps.removesuffix("_boxes")
    register_unlabeled(name, images, map_root)
    path = Path(cfg.OUTPUT_DIR) / "boxes.json"
    if not of_main(path.exists):
        weights = Path(before) / "model_final.pth"
        coco = detected_boxes(cfg, weights, name, boxes_per_image, progress=progress)
        of_main(lambda: write_coco(path, coco))
    detected = f"{name}_detected"
    register_boxes(detected, images, map_root, path)
    return train(on_boxes(cfg, detected), progress=progress, hooks=hooks)


def train_on_maps(
    cfg: CfgNode,
    images: str | Path,
    map_root: str | Path,
    *,
    progress: bool = True,
    hooks: Sequence[HookBase] = (),
) -> Path:
    """AGBP or AGDP on a map folder, to its end; returns the final weights. AGBP also leaves
    ``backbone_final.pth`` there.

    Args:
        cfg: of :func:`training_config`.
        images, map_root: what its data set is registered with.
        progress, hooks: as of :func:`~detectron2_agssp.engine.runs.train`.
    """
    (name,) = cfg.DATASETS.TRAIN
    register_unlabeled(name.removesuffix("_boxes"), images, map_root)
    return train(cfg, progress=progress, hooks=hooks)
