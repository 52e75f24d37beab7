"""Writes a synthetic sample dataset: images, masks and COCO annotations."""

import json
import operator
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.io.masks import encode_mask
from detectron2_agssp.scoring.synthetic.defects import CLASSES, Defect, tight_box
from examples.quickstart.synthetic.render import SPLITS, plan_image, render_image
from examples.quickstart.synthetic.surfaces import SURFACES

GENERATOR = "examples.quickstart.synthetic"
# Part of the settings: raise it whenever the same arguments would give other pixels.
GENERATOR_VERSION = 1
MIN_SIDE = 64  # px; a smaller image has no room for the larger defects

_README = """\
SYNTHETIC DATA. NOT FOR REPORTING RESULTS.

Procedural images of metal surfaces with defects, made by {generator}.
They show that a pipeline runs and let its tests run without a download. No camera was involved:
figures obtained on them say nothing about real metal.

Settings (also in settings.json; the same settings give the same files, byte for byte):
{settings}

images/<split>/<surface>/<surface>_<class of the first defect or "normal">_<index>.png
masks/<split>/...           same relative names, only for images with defects;
                            255 inside any defect, 0 elsewhere
annotations/<split>.json    COCO instances; file_name is relative to images/<split>

Surfaces: {surfaces}
Classes (COCO category ids from 1, in this order): {classes}
"""


def generate_sample_dataset(
    root: str | os.PathLike,
    *,
    num_train: int = 160,
    num_test: int = 60,
    sizes: tuple[tuple[int, int], ...] = ((192, 256), (224, 224), (256, 192)),
    normal_fraction: float = 0.3,
    classes: tuple[str, ...] = CLASSES,
    surfaces: tuple[str, ...] = SURFACES,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """Write a synthetic defect dataset below ``root``, or find it finished there.

    Equal arguments give byte-identical files. Image ``i`` of a split depends on all arguments but
    the numbers of images. Annotations are written last: where they are, the set was completed.
    After an interruption the same call makes the files that are missing and keeps the others.

    Args:
        root: folder to write to; made if missing.
        num_train: number of training images, at least 0.
        num_test: number of test images, at least 0.
        sizes: ``(height, width)`` pairs in pixels, each side at least 64; every image draws one.
        normal_fraction: share of images without defects, in [0, 1].
        classes: of the defects, in the order of their category ids.
        surfaces: of the images.
        seed: at least 0.
        progress: show a progress bar on stderr.

    Returns:
        ``{"root": str, "splits": {"train": {...}, "test": {...}}}``, where each split has the paths
        ``image_root``, ``mask_root`` and ``annotations`` and the counts ``images``,
        ``normal_images``, ``instances``, ``instances_per_class`` and ``images_per_surface``.

    Raises:
        ValueError: an argument is out of range, or ``root`` holds other files or a set made with
            other settings.
    """
    settings = _checked_settings(
        num_train, num_test, sizes, normal_fraction, classes, surfaces, seed
    )
    root = Path(root)
    if _holds_finished_set(root, settings):
        return _summary(root)

    _write_text(root / "settings.json", json.dumps(settings, indent=2) + "\n")
    readme = _README.format(
        generator=GENERATOR,
        settings="\n".join(f"  {name}: {value}" for name, value in settings.items()),
        surfaces=", ".join(surfaces),
        classes=", ".join(classes),
    )
    _write_text(root / "README.txt", readme)
    total = settings["num_train"] + settings["num_test"]
    with tqdm(total=total, desc="synthetic images", disable=not progress) as bar:
        annotations = {split: _write_split(root, split, settings, bar) for split in SPLITS}
    for split, coco in annotations.items():
        _write_text(_annotation_file(root, split), json.dumps(coco) + "\n")
    return _summary(root)


def _checked_settings(num_train, num_test, sizes, normal_fraction, classes, surfaces, seed) -> dict:
    """The arguments as plain JSON values, or ValueError naming the one that is out of range."""
    counts = {"num_train": num_train, "num_test": num_test, "seed": seed}
    for name, value in counts.items():
        counts[name] = operator.index(value)
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    sizes = [list(map(operator.index, size)) for size in sizes]
    if not sizes:
        raise ValueError("sizes must hold at least one (height, width) pair, got none")
    for size in sizes:
        if len(size) != 2 or min(size) < MIN_SIDE:
            raise ValueError(
                f"sizes must be (height, width) pairs with sides of at least {MIN_SIDE} px, "
                f"got {tuple(size)}"
            )
    if not 0.0 <= normal_fraction <= 1.0:
        raise ValueError(f"normal_fraction must lie in [0, 1], got {normal_fraction}")
    for name, chosen, known in (("classes", classes, CLASSES), ("surfaces", surfaces, SURFACES)):
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
            raise ValueError(f"{name} must be some of {known}, each once, got {tuple(chosen)}")
    return {
        "generator": GENERATOR,
        "version": GENERATOR_VERSION,
        **counts,
        "sizes": sizes,
        "normal_fraction": float(normal_fraction),
        "classes": list(classes),
        "surfaces": list(surfaces),
    }


def _holds_finished_set(root: Path, settings: dict) -> bool:
    """Whether ``root`` holds all files of a set with these settings; ValueError if of another."""
    settings_file = root / "settings.json"
    if not settings_file.exists():
        if root.exists() and any(root.iterdir()):
            raise ValueError(
                f"{root} holds files but no settings.json of a synthetic set: choose another folder"
            )
        return False
    found = json.loads(settings_file.read_text())
    differences = [
        f"{name} is {found.get(name)!r} there, {settings.get(name)!r} was asked for"
        for name in {**settings, **found}
        if found.get(name) != settings.get(name)
    ]
    if differences:
        raise ValueError(
            f"{root} holds a set with other settings ({'; '.join(differences)}): "
            "choose another folder or delete it"
        )
    return all(_split_is_complete(root, split) for split in SPLITS)


def _split_is_complete(root: Path, split: str) -> bool:
    annotation_file = _annotation_file(root, split)
    if not annotation_file.exists():
        return False
    coco = json.loads(annotation_file.read_text())
    with_defects = {annotation["image_id"] for annotation in coco["annotations"]}
    names = [image["file_name"] for image in coco["images"]]
    mask_names = [i["file_name"] for i in coco["images"] if i["id"] in with_defects]
    files = [root / "images" / split / name for name in names]
    files += [root / "masks" / split / name for name in mask_names]
    return all(file.exists() for file in files)


def _write_split(root: Path, split: str, settings: dict, bar: tqdm) -> dict:
    """Write the missing images and masks of a split; returns its COCO dictionary."""
    coco = {
        "info": {
            "description": f"SYNTHETIC metal surface defects made by {GENERATOR}, {split} split; "
            "not for reporting results",
            "settings": settings,
        },
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "defect"}
            for number, name in enumerate(settings["classes"], start=1)
        ],
        "images": [],
        "annotations": [],
    }
    for folder in ("images", "masks"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    sizes = [tuple(size) for size in settings["sizes"]]
    for index in range(settings[f"num_{split}"]):
        plan = plan_image(
            settings["seed"],
            split,
            index,
            sizes,
            settings["normal_fraction"],
            classes=tuple(settings["classes"]),
            surfaces=tuple(settings["surfaces"]),
        )
        # Rendered even if its files exist: the annotations need the exact masks of each instance.
        image, defects = render_image(plan)
        _write_png(root / "images" / split / plan.file_name, image[:, :, ::-1])
        if defects:
            union = np.any([defect.mask for defect in defects], axis=0)
            _write_png(root / "masks" / split / plan.file_name, union.astype(np.uint8) * 255)
        height, width = plan.size
        coco["images"].append(
            {"id": index + 1, "file_name": plan.file_name, "height": height, "width": width}
        )
        for defect in defects:
            annotation = _coco_annotation(defect, len(coco["annotations"]) + 1, index + 1)
            annotation["category_id"] = settings["classes"].index(defect.class_name) + 1
            coco["annotations"].append(annotation)
        bar.update()
    return coco


def _coco_annotation(defect: Defect, number: int, image_id: int) -> dict:
    return {
        "id": number,
        "image_id": image_id,
        "bbox": list(tight_box(defect.mask)),
        "area": int(defect.mask.sum()),
        "segmentation": encode_mask(defect.mask),
        "iscrowd": 0,
    }


def _summary(root: Path) -> dict:
    """Counts and paths of a finished set, read from its annotations."""
    splits = {}
    for split in SPLITS:
        coco = json.loads(_annotation_file(root, split).read_text())
        annotations, images = coco["annotations"], coco["images"]
        names = {category["id"]: category["name"] for category in coco["categories"]}
        classes = Counter(names[annotation["category_id"]] for annotation in annotations)
        surfaces = Counter(image["file_name"].split("/")[0] for image in images)
        splits[split] = {
            "image_root": str(root / "images" / split),
            "mask_root": str(root / "masks" / split),
            "annotations": str(_annotation_file(root, split)),
            "images": len(images),
            "normal_images": len(images) - len({a["image_id"] for a in annotations}),
            "instances": len(annotations),
            "instances_per_class": {name: classes[name] for name in names.values()},
            "images_per_surface": dict(sorted(surfaces.items())),
        }
    return {"root": str(root), "splits": splits}


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"{split}.json"


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an (H, W) or BGR (H, W, 3) uint8 image unless the file is there already."""
    if path.exists():
        return
    _, encoded = cv2.imencode(".png", pixels)
    _write_bytes(path, encoded.tobytes())


def _write_text(path: Path, text: str) -> None:
    _write_bytes(path, text.encode("utf-8"))


def _write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: whoever finds it finds it complete."""
    with atomic_write(path, "wb") as file:
        file.write(content)
