"""Reading images of industrial cameras: any format, 8 or 16 bit, grey or colour."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from iopath.common.file_io import PathManager as PathManagerBase
from PIL import Image, ImageOps

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pcx", ".pgm", ".pic", ".png", ".pnm", ".ppm", ".ras", ".sr", ".tga", ".tif",
    ".tiff", ".webp",
))
# fmt: on


class UnreadableImageError(ValueError):
    """The file is not an image that Pillow or OpenCV can decode."""


def list_images(root: str | Path) -> Iterator[str]:
    """Yields the images below ``root`` as relative POSIX paths, in a fixed (sorted) order.

    Folders are walked one at a time, so memory does not grow with the number of images, but for
    the names of the largest folder.

    Args:
        root: a folder, or a URL of one that Detectron2's PathManager can list.

    Raises:
        FileNotFoundError: ``root`` is not a folder.
    """
    root = os.fspath(root)
    remote = "://" in root
    if remote:
        from detectron2.utils.file_io import PathManager
    if not (PathManager.isdir(root) if remote else os.path.isdir(root)):
        raise FileNotFoundError(f"Image folder {root!r} does not exist or is not a folder.")
    yield from _walk(root, "", _list_remote if remote else _list_local)


def _list_local(folder: str) -> list[tuple[str, bool]]:
    """Names, and whether they are folders to walk into."""
    with os.scandir(folder) as scan:
        return [
            # A link to a folder above would never end.
            (entry.name, is_folder)
            for entry in scan
            if not (is_folder := entry.is_dir())
            or not (entry.is_symlink() and _is_above(entry.path, folder))
        ]


def _list_remote(folder: str) -> list[tuple[str, bool]]:
    from detectron2.utils.file_io import PathManager

    names = [name.rstrip("/") for name in PathManager.ls(folder)]
    # An image's suffix saves asking for each.
    return [
        (name, not _is_image(name) and PathManager.isdir(f"{folder.rstrip('/')}/{name}"))
        for name in names
    ]


def _walk(folder: str, prefix: str, list_folder) -> Iterator[str]:
    for name, is_folder in sorted(list_folder(folder)):
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(f"{folder.rstrip('/')}/{name}", f"{prefix}{name}/", list_folder)
        elif _is_image(name):
            yield prefix + name


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_above(link: str, folder: str) -> bool:
    """Whether ``link`` leads to ``folder`` or to a folder that holds it."""
    return f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(link)}/")


def read_image(
    path: str | Path,
    image_format: str = "RGB",
    bit_depth: int = 0,
    path_manager: PathManagerBase | None = None,
) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8 in [0, 255], EXIF orientation applied.

    Grey images are repeated over the channels, an alpha channel is dropped. Images with more than
    8 bits are scaled linearly from their full range, never stretched to their own extremes: the
    same grey stays the same grey in every image.

    Args:
        path: a local path, or anything that ``path_manager`` opens.
        image_format: "RGB" or "BGR", the channel order returned.
        bit_depth: significant bits of images stored with 16; 0 means all 16.
        path_manager: an iopath ``PathManager``; Detectron2's by default.

    Raises:
        FileNotFoundError: no such file.
        UnreadableImageError: neither Pillow nor OpenCV decodes it.
        ValueError: ``image_format`` or ``bit_depth`` is not one of those above.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
    if bit_depth != 0 and not 8 <= bit_depth <= 16:
        raise ValueError(f"bit_depth must be 0 or between 8 and 16, got {bit_depth}.")
    if path_manager is None:
        from detectron2.utils.file_io import PathManager as path_manager
    with path_manager.open(os.fspath(path), "rb") as file:
        encoded = file.read()
    image = _decode_with_pillow(encoded)
    if image is None:
        image = _decode_with_opencv(encoded)
    if image is None or image.size == 0:
        raise UnreadableImageError(
            f"{os.fspath(path)!r} ({len(encoded)} bytes) is not an image that Pillow or OpenCV "
            "can decode; it may be truncated."
        )
    image = _to_three_channels(_to_uint8(image, bit_depth))
    # Pillow's arrays are read-only.
    return np.require(image if image_format == "RGB" else image[:, :, ::-1], requirements="CW")


def _decode_with_pillow(encoded: bytes) -> np.ndarray | None:
    """(H, W) or (H, W, C), RGB order, in the file's own depth; None where OpenCV may do better,
    and empty where it must not."""
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            if re.search(r"(RGB\w?|LA);16", str(opened.tile)):
                return None  # Pillow would keep the upper 8 bits of each channel only
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I;16", "I;16B", "I;16L", "I"):
                # "I" holds a 16-bit PNG or TIFF in 32 bits.
                return np.asarray(image).astype(np.int64).clip(0, 65535).astype(np.uint16)
            if image.mode == "F":
                return np.asarray(image)
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except Image.DecompressionBombError:
        return None
    except (OSError, SyntaxError, ValueError, EOFError):
        # OpenCV 4 makes the missing part of a truncated JPEG grey, and says nothing.
        return np.zeros(0, np.uint8) if encoded.startswith(b"\xff\xd8") else None


def _decode_with_opencv(encoded: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    if not encoded:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        return None
    if image is not None and image.ndim == 3:
        image = image[:, :, 2::-1]
    return image


def _to_uint8(image: np.ndarray, bit_depth: int) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        full_scale = 2.0 ** (bit_depth or 16) - 1
    else:
        # Floating-point files (EXR, TIFF) hold [0, 1] by convention, else 8-bit numbers.
        image = np.nan_to_num(image.astype(np.float32), posinf=0.0, neginf=0.0)
        full_scale = 1.0 if image.max(initial=0) <= 1 else 255.0
    return np.rint(np.clip(image / full_scale, 0, 1) * 255).astype(np.uint8)


def _to_three_channels(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return image[:, :, :3]
