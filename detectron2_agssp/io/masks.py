"""Masks of defects: one image beside another that says which of its pixels are defect."""

import contextlib
import io
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
from PIL import Image, ImageOps

from detectron2_agssp.io.images import MAX_PIXELS, read_decoded

# JPEG's artefacts around a shape stay below it.
_JPEG_NOISE = 32
# What a mask's colours are counted from, see read_mask_values.
COLOURS = 2**24


class MaskValueError(ValueError):
    """A mask whose values mean something else than what they are read as."""


def read_mask(
    path: str | Path, threshold: int = 127, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A mask as (H, W) bool: defect is where any channel is above ``threshold``.

    Values in between are taken for the soft edges of shapes, but where they fill a region (of 3 x 3
    pixels or more, all the same), they are another class' code, or a mask of 0 and 1.

    Args:
        path: of an image file, of any depth; alpha is ignored.
        threshold: in the file's own values.
        max_pixels: see :class:`~detectron2_agssp.io.images.ImageReader`.

    Raises:
        FileNotFoundError, OSError, UnreadableImageError: no such file, or none that can be read.
        MaskValueError: regions of a value that is neither 0 nor above the threshold.
    """
    name = os.fspath(path)
    encoded, values = read_decoded(name, max_pixels, "Mask ")
    if values.ndim == 3:
        values = values[:, :, :3].max(axis=2)
    if values.dtype not in (np.uint8, np.uint16):
        values = np.nan_to_num(values.astype(np.float32))
    codes = _codes(values, threshold, _JPEG_NOISE if encoded.startswith(b"\xff\xd8") else 0)
    if codes:
        raise MaskValueError(
            f"Mask {name!r} has regions of the value {', '.join(codes)}, which is not above the "
            f"threshold of {threshold} and so would be no defect. Where each value is a class of "
            "defect, set the threshold to 0: all of them are defect then. Where it is none, make "
            "it 0 in the mask."
        )
    return values > threshold


def encode_mask(mask: np.ndarray) -> dict:
    """(H, W) bool as COCO's segmentation, compressed run lengths: json-ready, and what
    ``pycocotools.mask.decode`` reads."""
    encoded = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def read_mask_values(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of a mask as (H, W) int: those of the file, the index where it has a palette, and
    ``COLOURS`` + 256 (256 R + G) + B for what is not grey.

    Raises:
        FileNotFoundError, OSError, UnreadableImageError: no such file, or none that can be read.
        MaskValueError: its values are no whole numbers.
    """
    name = os.fspath(path)
    encoded, values = read_decoded(name, max_pixels, "Mask ")
    if values.ndim == 3:
        with contextlib.suppress(OSError), Image.open(io.BytesIO(encoded)) as picture:
            if picture.mode == "P":
                return np.asarray(ImageOps.exif_transpose(picture)).astype(np.int64)
        red, green, blue = np.moveaxis(values[:, :, :3].astype(np.int64), 2, 0)
        grey = (red == green) & (green == blue)
        return np.where(grey, red, COLOURS + (red << 16) + (green << 8) + blue)
    if not np.issubdtype(values.dtype, np.integer):
        raise MaskValueError(f"Mask {name!r} has {values.dtype} values, not whole numbers.")
    return values.astype(np.int64)


def _codes(values: np.ndarray, threshold: int, noise: int) -> list[str]:
    """The values in (``noise``, ``threshold``] that fill a square of 3 x 3."""
    square = np.ones((3, 3), np.uint8)
    flat = cv2.erode(values, square) == cv2.dilate(values, square)
    found = np.unique(values[flat & (values > noise) & (values <= threshold)])
    return [f"{value:g}" for value in found[:5].tolist()]
