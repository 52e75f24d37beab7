"""Small folders of labels in every format, all of the same boxes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.data import read_labels
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.coco import coco_problems
from tests.data.prepare_sources import HEIGHT, WIDTH, write_image, write_mask, write_xml

# Stem -> (class, x, y, width, height) of its boxes, in pixels.
BOXES = {
    "a": [("crack", 2, 3, 5, 6), ("dent", 12, 1, 4, 4)],
    "b": [("crack", 0, 0, 20, 16)],
    "c": [],
}
CLASSES = ["crack", "dent"]


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def yolo_line(category: int, x: float, y: float, width: float, height: float) -> str:
    parts = ((x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT)
    return f"{category} {' '.join(f'{part:.6f}' for part in parts)}\n"


def run_lengths(mask: np.ndarray) -> str:
    """As in Severstal's table: from 1, column by column."""
    flat = np.concatenate([[0], mask.T.ravel() > 0, [0]])
    edges = np.flatnonzero(np.diff(flat)) + 1
    return " ".join(f"{start} {end - start}" for start, end in edges.reshape(-1, 2))


def make_coco(root: Path) -> None:
    images, annotations = [], []
    for number, (stem, boxes) in enumerate(BOXES.items()):
        write_image(root / f"images/{stem}.png", stem)
        images.append(
            {"id": number, "file_name": f"images\\{stem}.png", "width": WIDTH, "height": HEIGHT}
        )
        annotations += [
            {
                "id": len(annotations) + index,
                "image_id": number,
                "category_id": 7 * CLASSES.index(name),
                "bbox": xywh,
            }
            for index, (name, *xywh) in enumerate(boxes)
        ]
    categories = [{"id": 7 * number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(root / "instances.json", json.dumps(content))


def make_yolo(root: Path) -> None:
    for stem, boxes in BOXES.items():
        write_image(root / f"images/{stem}.png", stem)
        lines = [yolo_line(CLASSES.index(name), *xywh) for name, *xywh in boxes]
        if lines:
            write_text(root / f"labels/{stem}.txt", "".join(lines))
    write_text(root / "data.yaml", "nc: 2\nnames:\n  0: crack\n  1: dent\n")


def make_voc(root: Path) -> None:
    for stem, boxes in BOXES.items():
        write_image(root / f"JPEGImages/{stem}.png", stem)
        objects = [(name, x + 1, y + 1, x + w, y + h) for name, x, y, w, h in boxes]
        write_xml(root / f"Annotations/{stem}.xml", *objects)


def make_masks(root: Path) -> None:
    for stem, boxes in BOXES.items():
        write_image(root / f"images/{stem}.png", stem)
        for name, *xywh in boxes:
            write_mask(root / f"masks/{name}/{stem}.png", tuple(xywh))


def make_mvtec(root: Path) -> None:
    for stem in ("c", "d"):
        write_image(root / f"bolt/train/good/{stem}.png", stem)
    write_image(root / "bolt/test/good/c.png", "good")
    for stem, (category, *xywh) in (("a", BOXES["a"][0]), ("b", BOXES["b"][0])):
        write_image(root / f"bolt/test/{category}/{stem}.png", stem)
        write_mask(root / f"bolt/ground_truth/{category}/{stem}_mask.png", tuple(xywh))


def make_rle(root: Path, separator: str = ",") -> None:
    rows = [separator.join(("ImageId", "ClassId", "EncodedPixels"))]
    for stem, boxes in BOXES.items():
        write_image(root / f"train_images/{stem}.jpg", stem)
        for name, x, y, width, height in boxes:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[y : y + height, x : x + width] = 1
            cells = (f"{stem}.jpg", str(CLASSES.index(name) + 1), run_lengths(mask))
            rows.append(separator.join(cells))
    write_text(root / "train.csv", "\n".join(rows), "utf-8-sig")


def write_colours(path: Path, *rectangles: tuple, mode: str = "RGB") -> None:
    """A mask of rectangles (value or colour, x, y, width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((HEIGHT, WIDTH, 3) if mode == "RGB" else (HEIGHT, WIDTH), np.uint8)
    for value, x, y, width, height in rectangles:
        mask[y : y + height, x : x + width] = value
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)


def boxes_of(coco: dict) -> dict[str, list[tuple]]:
    """Stem -> class and XYWH of its boxes, sorted."""
    stems = {image["id"]: Path(image["file_name"]).stem for image in coco["images"]}
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    found: dict[str, list[tuple]] = {stem: [] for stem in stems.values()}
    for entry in coco["annotations"]:
        xywh = (round(value, 2) for value in entry["bbox"])
        found[stems[entry["image_id"]]].append((names[entry["category_id"]], *xywh))
    return {stem: sorted(boxes) for stem, boxes in found.items()}


def read(root, format, **options):
    """The boxes by stem, and the problems that there are."""
    report = Report(format, str(root))
    coco = read_labels(root, format, report=report, **options)
    assert coco_problems(coco, coco["info"]["image_root"]) == []
    problems = {kind: cases for kind, cases in report.problems.items() if cases}
    assert coco["info"]["problems"] == problems
    return boxes_of(coco), problems
