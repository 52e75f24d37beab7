"""What is defect in an image: from a folder of masks, or from a COCO json."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.io.coco import read_coco

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg")


class MaskFolder:
    """Masks that have their images' relative paths. An image's class is its source.

    Args:
        root: the folder.
        threshold: mask values above it are defect, in [0, 255].

    Raises:
        FileNotFoundError: no such folder.
    """

    hint = (
        "Masks are found by the image's relative path with a mask's suffix, e.g. "
        "scratches/1.jpg -> scratches/1.png."
    )

    def __init__(self, root: str | Path, threshold: int = 127):
        self.root, self.threshold = Path(root), threshold
        if not self.root.is_dir():
            raise FileNotFoundError(f"Mask folder {str(root)!r} does not exist.")

    def __call__(self, entry: dict) -> tuple[str, np.ndarray] | None:
        """The class and the mask (H, W) bool of a manifest entry's image; None if it has none."""
        path = find_mask(self.root, entry["image"])
        if path is None:
            return None
        with Image.open(path) as opened:
            return entry["source"], np.asarray(opened.convert("L")) > self.threshold


class CocoTruth:
    """Labelled boxes, or masks where there are any, of a COCO json. An image's class is that of
    most of its labels; its defect is where any of them is. Images without labels are left out.

    Images are matched by the end of their path, whatever folder either path is relative to.

    Raises:
        FileNotFoundError, ValueError: no such file, or no COCO json.
    """

    hint = "Images are matched by the end of their file_name."

    def __init__(self, path: str | Path):
        self.path = Path(path)
        content = read_coco(self.path)
        self._names = {one["id"]: one["name"] for one in content["categories"]}
        self._images = defaultdict(list)
        for image in content["images"]:
            self._images[os.path.basename(image["file_name"])].append(image)
        self._labels = defaultdict(list)
        for label in content["annotations"]:
            self._labels[label["image_id"]].append(label)

    @property
    def num_images(self) -> int:
        return sum(map(len, self._images.values()))

    def find(self, entry: dict) -> dict | None:
        """The json's record of a manifest entry's image; None where it has none.

        Raises:
            ValueError: several images of the json end in this path, or the json gives the image
                another size.
        """
        name = entry["image"]
        matching = [
            image
            for image in self._images.get(os.path.basename(name), ())
            if f"/{image['file_name']}".endswith(f"/{name}")
        ]
        if len(matching) > 1:
            raise ValueError(
                f"{self.path} has {len(matching)} images whose file_name ends in {name!r}: which "
                "one is meant cannot be told. Make maps of the folder above."
            )
        for image in matching:
            for side in ("height", "width"):
                if image.get(side, entry[side]) != entry[side]:
                    raise ValueError(
                        f"{name!r} has {side} {entry[side]}, but {image[side]} in {self.path}: "
                        "its labels are of an image that was resized since. Use the images that "
                        "were labelled."
                    )
        return matching[0] if matching else None

    def labels(self, image: dict) -> list[dict]:
        """The annotations of an image that :meth:`find` returned; empty where it has none."""
        return self._labels.get(image["id"], [])

    def class_of(self, label: dict) -> str:
        """The name of a label's category.

        Raises:
            ValueError: the json has no such category.
        """
        if label["category_id"] not in self._names:
            raise ValueError(
                f"{self.path} has a label of category {label['category_id']!r}, but only the "
                f"categories {self._names}."
            )
        return self._names[label["category_id"]]

    def __call__(self, entry: dict) -> tuple[str, np.ndarray] | None:
        """The class and the mask (H, W) bool of a manifest entry's image; None if it has none.

        Raises:
            ValueError: as :meth:`find` and :meth:`class_of`.
        """
        image = self.find(entry)
        labels = self.labels(image) if image else []
        if not labels:
            return None
        mask = np.zeros((entry["height"], entry["width"]), bool)
        for label in labels:
            mask |= _label_mask(label, *mask.shape)
        classes = [self.class_of(label) for label in labels]
        return max(sorted(set(classes)), key=classes.count), mask


def _label_mask(label: dict, height: int, width: int) -> np.ndarray:
    """(height, width) bool: of the label's segmentation, or of its box."""
    segmentation = label.get("segmentation")
    if segmentation:
        from pycocotools import mask as coco_masks

        if isinstance(segmentation, list):
            encoded = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            encoded = coco_masks.frPyObjects(segmentation, height, width)
        else:
            encoded = segmentation
        return coco_masks.decode(encoded).astype(bool)
    mask = np.zeros((height, width), bool)
    x, y, w, h = label["bbox"]
    mask[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)] = True
    return mask


def find_mask(mask_root: Path, image: str) -> Path | None:
    """The mask of an image, by its relative path with any of the usual suffixes."""
    stem = os.path.splitext(image)[0]
    for suffix in MASK_SUFFIXES:
        path = mask_root / f"{stem}{suffix}"
        if path.exists():
            return path
    return None


def ground_truth(path: str | Path, threshold: int = 127) -> MaskFolder | CocoTruth:
    """:class:`CocoTruth` of a ``.json`` file, else :class:`MaskFolder`."""
    return CocoTruth(path) if Path(path).suffix == ".json" else MaskFolder(path, threshold)
