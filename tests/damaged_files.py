"""Files of every other kind that users hand over, or that runs leave and read again, to be damaged:
labels, configs, descriptions, map folders, records of runs, weights."""

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pycocotools.mask
import torch
from detectron2.config import get_cfg
from PIL import Image

import detectron2_agssp  # noqa: F401  (extends the default config)
from detectron2_agssp.boxes.threshold import box_threshold
from detectron2_agssp.checkpoint.resuming import forget_damaged_checkpoints
from detectron2_agssp.data import read_labels
from detectron2_agssp.data.formats.layout import claim_files
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.data.formats.splits import read_splits
from detectron2_agssp.data.own_labels import draw_validation, read_own_labels
from detectron2_agssp.data.unlabeled import load_unlabeled
from detectron2_agssp.engine.pretrain_record import checked_record, files_of, skipped_images
from detectron2_agssp.engine.runs import final_metrics, is_finished
from detectron2_agssp.engine.stages import maps_finished
from detectron2_agssp.evaluation.truth import CocoTruth
from detectron2_agssp.inference.store import PredictionStore, as_entry, coco_of
from detectron2_agssp.io.coco import check_coco_json, read_coco
from detectron2_agssp.io.config_reading import read_config
from detectron2_agssp.io.masks import read_mask
from detectron2_agssp.io.weight_files import read_weight_file, state_dict_of
from detectron2_agssp.maps import MapStore, generate_anomaly_maps, load_map
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer, recorded_config
from detectron2_agssp.reports.folder_summary import summarize_map_folder
from detectron2_agssp.reports.map_panels import MapPainter
from detectron2_agssp.reports.recorded_settings import readable_settings
from detectron2_agssp.reports.skipped import read_skipped
from detectron2_agssp.scoring.kead.descriptions import BUILTIN_FOLDER, load_descriptions
from tests.data import label_sources
from tests.maps import quick_scorer  # noqa: F401  (registers it)

Readers = dict[Path, Callable[[], object]]
HEIGHT, WIDTH = 16, 20
NAMES = ("a.png", "b/c.png", "ü.png")


def file_readers(folder: Path) -> Readers:
    """All of them."""
    return {
        **label_readers(folder / "labels"),
        **format_readers(folder / "formats"),
        **config_readers(folder / "configs"),
        **map_readers(folder / "maps"),
        **run_readers(folder / "runs"),
        **weight_readers(folder / "weights"),
        **prediction_readers(folder / "predictions"),
    }


def make_images(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
        Image.fromarray(values).save(path)
    return folder


def label_readers(folder: Path) -> Readers:
    images = make_images(folder / "images")
    coco = folder / "coco.json", folder / "truth.json", folder / "own.json"
    for path in coco:
        path.write_text(json.dumps(_coco(), indent=1))
    entries = [{"image": name, "height": HEIGHT, "width": WIDTH} for name in NAMES]

    def read_own():
        labels, root, _ = read_own_labels(coco[2], images)
        draw_validation(labels)
        return root

    mask, output, splits = folder / "mask.png", folder / "prepared", folder / "splits.json"
    Image.fromarray(np.uint8([[0, 255, 0], [0, 0, 0]]).repeat(4, 0)).save(mask)
    (output / "images/train").mkdir(parents=True)
    placed = output / ".prepared.json"
    placed.write_text('["images/train/a.png", "annotations/train.json"]')
    splits.write_text('{"train": ["a", "b"], "test": ["c"], "train_10pct_draw0": ["a"], "seed": 1}')
    return {
        coco[0]: lambda: (check_coco_json(coco[0], images), read_coco(coco[0])),
        coco[1]: lambda: list(map(CocoTruth(coco[1]), entries)),
        coco[2]: read_own,
        mask: lambda: read_mask(mask),
        placed: lambda: claim_files(output, set()),
        splits: lambda: read_splits(splits, Report("x", "y")),
    }


def format_readers(folder: Path) -> Readers:
    """One file of each format's, or two."""
    readers: Readers = {}
    for name, files in {
        "coco": ["instances.json"],
        "yolo": ["labels/a.txt", "data.yaml"],
        "voc": ["Annotations/a.xml"],
        "masks": ["masks/crack/a.png"],
        "mvtec": ["bolt/ground_truth/crack/a_mask.png"],
        "rle": ["train.csv"],
    }.items():
        root = folder / name
        getattr(label_sources, f"make_{name}")(root)
        for file in files:
            readers[root / file] = partial(read_labels, root, name)
    return readers


def _coco() -> dict:
    dot = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    dot[3:6, 4:9] = 1
    lengths = pycocotools.mask.encode(dot)
    segmentations = (
        [[4, 3, 9, 3, 9, 6]],
        {"size": [HEIGHT, WIDTH], "counts": lengths["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": [70, 10, HEIGHT * WIDTH - 80]},
    )
    return {
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for number, name in enumerate(NAMES)
        ],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 2, "bbox": [4, 3, 5.5, 3], "area": 15},
            *(
                {"id": 2 + n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]}
                | {"segmentation": segmentation, "iscrowd": 0}
                for n, segmentation in enumerate(segmentations)
            ),
        ],
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "burr"}],
    }


def config_readers(folder: Path) -> Readers:
    folder.mkdir()
    config, based, described = folder / "own.yaml", folder / "based.yaml", folder / "texts.yaml"
    config.write_text(
        "MODEL: {WEIGHTS: '', PIXEL_MEAN: [1.0, 2.5, 3], MASK_ON: False}\n"
        "AGSSP:\n  BOXES:\n    MARGIN: 0.2  # of the maps\n  SCORER: {NAME: memory}\n"
        "DATASETS:\n  TRAIN: ('a', 'b')\nSOLVER:\n  STEPS: (1, 2)\n"
    )
    based.write_text("_BASE_: agssp://agdp/faster_rcnn_lite0_fpn.yaml\nSOLVER:\n  MAX_ITER: 3\n")
    shutil.copy(BUILTIN_FOLDER / "metal_surface.yaml", described)
    return {
        config: lambda: read_config(config),
        based: lambda: read_config(based),
        described: lambda: load_descriptions(described),
    }


def map_readers(folder: Path) -> Readers:
    """Each file of a map folder, in a folder of its own for each kind of reader."""
    images = make_images(folder / "images")
    (images / "no.png").write_bytes(b"none")
    cfg = get_cfg()
    cfg.AGSSP.SCORER.NAME, cfg.AGSSP.SCORER.NUM_WORKERS = "quick", 0
    generate_anomaly_maps(cfg, images, folder / "0", progress=False)
    box_threshold(folder / "0")

    def copy(number: int) -> MapStore:
        shutil.copytree(folder / "0", folder / str(number))
        return MapStore(folder / str(number))

    one, two, three, four, five = map(copy, range(1, 6))

    def show(store: MapStore):
        summary = summarize_map_folder(cfg, store.root, num_examples=1, progress=False)
        settings = readable_settings(store.read_scorer())
        return MapPainter(cfg, store.root, rule=summary.rule)(summary.best[0]), settings

    a_map, statistics = one.root / "maps/a.png.npy", one.root / "statistics.json"
    return {
        one.manifest_path: lambda: (list(one.entries()), one.recorded()),
        one.scorer_path: lambda: load_fitted_scorer(cfg, one.root),
        one.state_path: lambda: load_fitted_scorer(cfg, one.root),
        one.skipped_path: lambda: read_skipped(one.root),
        a_map: lambda: load_map(a_map),
        statistics: lambda: box_threshold(one.root, "quantile"),
        two.manifest_path: lambda: load_unlabeled(None, two.root),
        two.scorer_path: lambda: load_unlabeled(None, two.root),
        three.manifest_path: lambda: show(three),
        three.scorer_path: lambda: show(three),
        four.scorer_path: lambda: recorded_config(cfg, four.root),
        four.skipped_path: lambda: skipped_images(four.root),
        five.skipped_path: five.merge,
    }


def run_readers(folder: Path) -> Readers:
    images, output = make_images(folder / "images"), folder / "out"
    output.mkdir()
    settings, files = {"images": str(images), "rounds": 2}, files_of(images)
    checked_record(output, settings, files)
    metrics, final = output / "metrics.json", output / "model_final.pth"
    metrics.write_text('{"iteration": 3, "bbox/AP": 1.5, "bbox/AP50": NaN}\n{"iteration": 4}\n')
    torch.save({}, final)
    (output / "finished.json").write_text(
        json.dumps({"iterations": 3, "bytes": {final.name: final.stat().st_size}})
    )
    (output / "maps").mkdir()
    (output / "maps/finished.json").write_text('{"manifest_bytes": 30}')
    (output / "last_checkpoint").write_text(final.name)
    return {
        output / "pretrain.json": lambda: checked_record(output, settings, files),
        output / "images.json": lambda: checked_record(output, settings, files),
        metrics: lambda: final_metrics(output, 3),
        output / "finished.json": lambda: is_finished(output),
        output / "maps/finished.json": lambda: maps_finished(output / "maps"),
        output / "last_checkpoint": lambda: forget_damaged_checkpoints(output),
    }


def weight_readers(folder: Path) -> Readers:
    from safetensors.torch import save_file

    folder.mkdir()
    weights = {"backbone.conv.weight": torch.eye(3), "bias": torch.ones(2)}
    paths = [folder / name for name in ("zip.pth", "old.pth", "a.pkl", "a.safetensors")]
    torch.save({"model": weights, "iteration": 3}, paths[0])
    torch.save(weights, paths[1], _use_new_zipfile_serialization=False)
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    paths[2].write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    save_file(weights, paths[3])
    return {path: lambda path=path: state_dict_of(read_weight_file(path), path) for path in paths}


def prediction_readers(folder: Path) -> Readers:
    store, settings = PredictionStore(folder), {"threshold": 0.5, "weights": ["a", 3]}
    found = {
        "boxes": torch.tensor([[1.0, 2, 7.5, 9], [0, 0, 4, 4]]),
        "scores": torch.tensor([0.9, 0.6]),
        "classes": torch.tensor([0, 1]),
    }

    def read():
        with store.opened(settings):
            return coco_of(store.recorded().values(), ["dent", "burr"])

    with store.opened(settings):
        store.append([as_entry(name, (HEIGHT, WIDTH), found, {}) for name in NAMES])
    return {store.settings_path: read, store.lines_path: read}
