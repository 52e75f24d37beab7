"""What is defect in an image: from a folder of masks, or from a COCO json."""

import logging
import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.files import safe_join, user_path
from detectron2_agssp.io.images import list_images
from detectron2_agssp.io.masks import read_mask
from detectron2_agssp.utils.naming import some_of

logger = logging.getLogger(__name__)

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg")


class MaskFolder:
    """Masks that have their images' relative paths. An image's class is its source.

    Args:
        root: the folder.
        threshold: mask values above it are defect.

    Raises:
        FileNotFoundError: no such folder.
    """

    hint = (
        "Masks are found by the image's relative path with a mask's suffix, e.g. "
        "scratches/1.jpg -> scratches/1.png."
    )

    def __init__(self, root: str | Path, threshold: int = 127):
        self.root, self.threshold = user_path(root), threshold
        self.used: set[str] = set()
        self.left_out: list[str] = []
        if not self.root.is_dir():
            raise FileNotFoundError(f"Mask folder {str(root)!r} does not exist.")

    def __call__(self, entry: dict) -> tuple[str, np.ndarray] | None:
        """The class and the mask (H, W) bool of a manifest entry's image; None if it has none.

        Raises:
            ValueError: the mask cannot be read, has another size than its image, or values that
                may be classes; see :func:`~detectron2_agssp.io.masks.read_mask`.
        """
        path = find_mask(self.root, entry["image"])
        if path is None:
            self.left_out.append(entry["image"])
            return None
        self.used.add(path.relative_to(self.root).as_posix())
        mask = read_mask(path, self.threshold)
        if mask.shape != (entry["height"], entry["width"]):
            raise ValueError(
                f"Mask {str(path)!r} is {mask.shape[0]} x {mask.shape[1]} (height x width), but "
                f"its image {entry['image']!r} {entry['height']} x {entry['width']}: it was "
                "rotated, cropped or resized, or belongs to another image. Use masks of the "
                "images' own size."
            )
        return entry["source"], mask

    def warn_left_out(self) -> None:
        """Names the images that had no mask so far, and the masks that no image had."""
        if not self.left_out:
            return
        unused = sorted(set(list_images(self.root)) - self.used)
        without_image = f" Masks of no image: {some_of(map(repr, unused))}." if unused else ""
        logger.warning(
            "%d images are left out, as they have no mask in %s: %s.%s %s",
            len(self.left_out),
            self.root,
            some_of(map(repr, self.left_out)),
            without_image,
            self.hint,
        )


class CocoTruth:
    """Labelled boxes, or masks where there are any, of a COCO json. An image's class is that of
    most of its labels; its defect is where any of them is. Images without labels are left out.

    Images are matched by the end of their path, whatever folder either path is relative to.

    Raises:
        FileNotFoundError, ValueError: no such file, or no COCO json.
    """

    hint = "Images are matched by the end of their file_name."

    def __init__(self, path: str | Path):
        self.path = user_path(path)
        content = read_coco(self.path)
        self._names = {category["id"]: category["name"] for category in content["categories"]}
        self._images = defaultdict(list)
        for image in content["images"]:
            # Of Windows.
            name = image["file_name"].replace("\\", "/")
            self._images[os.path.basename(name)].append((name, image))
        self._labels = defaultdict(list)
        for label in content["annotations"]:
            self._labels[label["image_id"]].append(label)
        self._found: dict = {}
        self.left_out: list[str] = []

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
        records = self._images.get(os.path.basename(name), ())
        matching = [image for known, image in records if known == name] or [
            image for known, image in records if _ends_in(known, name) or _ends_in(name, known)
        ]
        if len(matching) > 1:
            raise ValueError(
                f"{self.path} has {len(matching)} images whose file_name ends in {name!r}, or that "
                "in it: which one is meant cannot be told. Make maps of the folder above."
            )
        for image in matching:
            other = self._found.setdefault(image["id"], name)
            if other != name:
                raise ValueError(
                    f"{image['file_name']!r} of {self.path} is the end of {other!r} and of "
                    f"{name!r}: which one is meant cannot be told. Write their folders into the "
                    "json's file names."
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
            ValueError: as :meth:`find` and :meth:`class_of`, or a label's mask cannot be read or
                has another size than the image.
        """
        image = self.find(entry)
        labels = self.labels(image) if image else []
        if not labels:
            self.left_out.append(entry["image"])
            return None
        mask = np.zeros((entry["height"], entry["width"]), bool)
        for label in labels:
            try:
                mask |= _label_mask(label, *mask.shape)
            except ValueError as error:
                raise ValueError(
                    f"Label {label.get('id')!r} of {entry['image']!r} in {self.path}: {error}"
                ) from error
        classes = [self.class_of(label) for label in labels]
        return max(sorted(set(classes)), key=classes.count), mask

    def warn_left_out(self) -> None:
        """Names the images that had no label so far."""
        if self.left_out:
            logger.warning(
                "%d images are left out, as they have no label in %s: %s. %s",
                len(self.left_out),
                self.path,
                some_of(map(repr, self.left_out)),
                self.hint,
            )


def _ends_in(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end}")


def _label_mask(label: dict, height: int, width: int) -> np.ndarray:
    """(height, width) bool: of the label's segmentation, or of its box, cut at the image."""
    segmentation = label.get("segmentation")
    if segmentation:
        return _decode_segmentation(segmentation, height, width)
    mask = np.zeros((height, width), bool)
    x, y, w, h = label["bbox"]
    top, bottom = np.rint([y, y + h]).clip(0, height).astype(int)
    left, right = np.rint([x, x + w]).clip(0, width).astype(int)
    mask[top:bottom, left:right] = True
    return mask


def _decode_segmentation(segmentation, height: int, width: int) -> np.ndarray:
    """Of polygons, or of run lengths, whose size must be the image's."""
    from pycocotools import mask as coco_masks

    if isinstance(segmentation, dict) and segmentation.get("size") != [height, width]:
        raise ValueError(
            f"its mask has the size {segmentation.get('size')!r}, its image [{height}, {width}] "
            "(height, width)."
        )
    try:
        if isinstance(segmentation, list):
            encoded = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            encoded = coco_masks.frPyObjects(segmentation, height, width)
        else:
            encoded = segmentation
        return coco_masks.decode(encoded).astype(bool)
    except Exception as error:  # pycocotools has no errors of its own
        raise ValueError(f"its segmentation is none of COCO's ({error!r}).") from error


def find_mask(mask_root: Path, image: str) -> Path | None:
    """The mask of an image, by its relative path with any of the usual suffixes.

    Raises:
        ValueError: the path leads out of the folder.
    """
    stem = os.path.splitext(image)[0]
    for suffix in MASK_SUFFIXES:
        path = safe_join(mask_root, f"{stem}{suffix}")
        if path.exists():
            return path
    return None


def ground_truth(path: str | Path, threshold: int = 127) -> MaskFolder | CocoTruth:
    """:class:`CocoTruth` of a ``.json`` file, else :class:`MaskFolder`."""
    return CocoTruth(path) if Path(path).suffix == ".json" else MaskFolder(path, threshold)
