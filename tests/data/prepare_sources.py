"""Small NEU-DET and Magnetic-Tile folders to prepare, and what to look at afterwards."""

import functools
import json
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.data.formats.sets import PublishedSet, prepare_published

SCRIPTS = Path(__file__).parents[2] / "datasets"
WIDTH, HEIGHT = 20, 16

OBJECT = """<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""
XML = """<annotation><filename>{filename}</filename>
<size><width>{width}</width><height>{height}</height><depth>1</depth></size>{objects}</annotation>"""


def write_image(path: Path, seed: int | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(seed).encode()))
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)).save(path)


def write_xml(path: Path, *objects: tuple, filename=None, width=WIDTH, height=HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(OBJECT.format(*entry) for entry in objects)
    filename = filename or f"{path.stem}.jpg"
    path.write_text(XML.format(filename=filename, width=width, height=height, objects=text))


def write_mask(path: Path, *rectangles: tuple[int, int, int, int], value: int = 255) -> np.ndarray:
    """Marks rectangles (x, y, width, height); returns the mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, width, height in rectangles:
        mask[y : y + height, x : x + width] = value
    Image.fromarray(mask).save(path)
    return mask


def write_splits(path: Path, **splits) -> Path:
    path.write_text(json.dumps(splits))
    return path


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def boxes(path: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """The class and XYWH of every box, by file name."""
    content = load(path)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    found = {name: [] for name in names.values()}
    for entry in content["annotations"]:
        found[names[entry["image_id"]]].append((classes[entry["category_id"]], entry["bbox"]))
    return found


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def make_neu_source(tmp_path: Path) -> Path:
    """20 images each of two classes, in the authors' folders, without splits."""
    source = tmp_path / "NEU-DET"
    for name in ("crazing", "rolled-in_scale"):
        for number in range(20):
            write_image(source / "IMAGES" / f"{name}_{number}.jpg", f"{name}{number}")
            write_xml(source / "ANNOTATIONS" / f"{name}_{number}.xml", (name, 3, 4, 12, 9))
    return source


def make_two_images(tmp_path: Path) -> Path:
    """A train and a test image of NEU-DET, with splits."""
    source = tmp_path / "two"
    for name in ("patches_1", "patches_2"):
        write_image(source / "images" / f"{name}.jpg", name)
        write_xml(source / "annotations" / f"{name}.xml", ("patches", 3, 4, 12, 9))
    write_splits(source / "splits.json", train=["patches_1"], test=["patches_2"], seed=1)
    return source


def make_tile_source(tmp_path: Path) -> Path:
    """A crack and two defect-free tiles; the crack and one of them in train."""
    source = tmp_path / "tiles"
    for stem in ("MT_Crack/Imgs/a", "MT_Crack/Imgs/b", "MT_Free/Imgs/a", "MT_Free/Imgs/b"):
        write_image(source / f"{stem}.jpg", stem)
        write_mask(source / f"{stem}.png", *([(2, 3, 5, 6)] if "Crack" in stem else []))
    write_splits(
        source / "splits.json",
        train=["MT_Crack/Imgs/a", "MT_Free/Imgs/a"],
        test=["MT_Crack/Imgs/b", "MT_Free/Imgs/b"],
    )
    return source


def published(name: str) -> PublishedSet:
    """What the script of a set describes."""
    return runpy.run_path(str(SCRIPTS / f"prepare_{name}.py"))["SET"]


prepare_neu_det = functools.partial(prepare_published, published("neu_det"))
prepare_magnetic_tile = functools.partial(prepare_published, published("magnetic_tile"))
