"""A user's own COCO labels: completed, checked, and split."""

from collections import defaultdict
from pathlib import Path

from detectron2_agssp.data.formats.splits import draw_balanced
from detectron2_agssp.io.coco import coco_annotation, coco_problems, read_coco, subset
from detectron2_agssp.io.files import read_json, user_path
from detectron2_agssp.io.images import read_header

VALIDATION_SHARE = 0.2
# Of fewer images, a validation set would say nothing, and training would miss it.
MIN_IMAGES_TO_SPLIT = 10
_NAMED = 3


def read_own_labels(
    path: str | Path, image_root: str | Path | None = None
) -> tuple[dict, Path, list[str]]:
    """Labels that Detectron2 can train on: boxes are cut at the image's border, those without area
    left out, sizes of images, areas and ids of boxes added where they are missing.

    Args:
        path: a COCO json.
        image_root: what its file names are relative to; as of :func:`labelled_image_root`.

    Returns:
        the COCO dict; the folder of its images, absolute; and what was changed or is odd, a
        sentence each.

    Raises:
        FileNotFoundError: no such file, or images are missing.
        ValueError: it is not COCO, has no box, its ids do not fit together, or an image has another
            size than it says.
    """
    path = user_path(path)
    coco = read_coco(path)
    if not coco["annotations"]:
        raise ValueError(
            f"{path} has no boxes ({len(coco['images'])} images, {len(coco['categories'])} "
            "categories): there is nothing to learn from."
        )
    root = labelled_image_root(path, coco, image_root)
    missing = [im["file_name"] for im in coco["images"] if not (root / im["file_name"]).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(coco['images'])} images of {path} are not in {root}, such "
            f"as {missing[0]}. Name the folder that their file names begin in (--images)."
        )
    _check_sizes(path, coco, root)
    coco, notes = _completed(coco)
    if problems := coco_problems(coco):
        raise ValueError(f"{path} cannot be trained on: {' '.join(problems[:_NAMED])}")
    used = {entry["category_id"] for entry in coco["annotations"]}
    unused = [entry["name"] for entry in coco["categories"] if entry["id"] not in used]
    if unused:
        notes.append(
            f"No box is of {', '.join(unused)}, which count as classes all the same. If they are "
            "none, take them out of the categories."
        )
    return coco, root, notes


def labelled_image_root(path: Path, coco: dict, image_root: str | Path | None = None) -> Path:
    """The folder that the file names of a COCO json begin in, absolute.

    Args:
        path: the json.
        coco: its content.
        image_root: taken as it is. None: the folder of the json, the one above it, ``images`` in
            one of them, or the ``image_root`` of the json's ``info`` (as `agssp labels` writes it;
            absolute, or relative to the json), wherever the first image is.
    """
    if image_root is not None:
        return user_path(image_root).resolve()
    folder = path.resolve().parent
    first = coco["images"][0]["file_name"] if coco["images"] else "."
    places = [folder, folder / "images", folder.parent, folder.parent / "images"]
    for place in places:
        if (place / first).is_file():
            return place
    info = read_json(path).get("info")
    named = info.get("image_root") if isinstance(info, dict) else None
    if isinstance(named, str) and named and "\0" not in named:
        place = (folder / user_path(named)).resolve()
        if (place / first).is_file():
            return place
    return folder


def _check_sizes(path: Path, coco: dict, root: Path) -> None:
    """Adds the images' sizes where they are missing.

    Raises:
        ValueError: others differ: such boxes are not where the defects are.
    """
    others = []
    for image in coco["images"]:
        height, width, orientation = read_header(root / image["file_name"])
        image.setdefault("height", height)
        image.setdefault("width", width)
        if (image["height"], image["width"]) != (height, width):
            turned = ", which EXIF turns" if orientation > 4 else ""
            others.append(
                f"{image['file_name']} (labelled as {image['width']} x {image['height']}, but "
                f"{width} x {height}{turned})"
            )
    if others:
        raise ValueError(
            f"{len(others)} of the {len(coco['images'])} images of {path} have another size than "
            f"it says, such as {others[0]}: they were rotated, cropped or resized since. Use the "
            "images that were labelled."
        )


def _completed(coco: dict) -> tuple[dict, list[str]]:
    annotations = []
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    cut = left_out = 0
    for entry in coco["annotations"]:
        box = entry.get("bbox")
        if box and entry["image_id"] in sizes:
            inside = _cut(box, *sizes[entry["image_id"]])
            if min(inside[2:]) <= 0:
                left_out += 1
                continue
            cut += max(abs(new - old) for new, old in zip(inside, box, strict=True)) > 1
            kept = {key: value for key, value in entry.items() if key not in ("id", "bbox")}
            ids = kept.pop("image_id"), kept.pop("category_id")
            entry = coco_annotation(len(annotations) + 1, *ids, inside, **kept)
        annotations.append(entry)
    notes = [f"{cut} boxes reached beyond their images and were cut."] * (cut > 0)
    notes += [f"{left_out} boxes without area inside their images were left out."] * (left_out > 0)
    return {**coco, "annotations": annotations}, notes


def _cut(box: list[float], image_width: float, image_height: float) -> list[float]:
    """XYWH at the border of its image."""
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image_width), min(y + height, image_height)
    return [left, top, right - left, bottom - top]


def draw_validation(coco: dict, *, seed: int = 0) -> tuple[dict, dict]:
    """Training and validation images, the latter a fifth of each class's, as
    :func:`~.formats.splits.draw_balanced` draws them.

    Args:
        coco: a COCO dict.
        seed: of the draw.
    """
    classes = defaultdict(set)
    for entry in coco["annotations"]:
        classes[entry["image_id"]].add(entry["category_id"])
    images = sorted(coco["images"], key=lambda image: image["file_name"])
    drawn = draw_balanced(
        {image["id"]: classes[image["id"]] for image in images},
        VALIDATION_SHARE,
        f"{seed} validation",
    )
    rest = {image["id"] for image in coco["images"]} - drawn
    return subset(coco, rest), subset(coco, drawn)
