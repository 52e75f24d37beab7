"""Images of industrial cameras: the one place where they are read, whatever format and depth."""

import io
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import configurable
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from detectron2_agssp.io.corpus_file import corpus_entries, is_corpus
from detectron2_agssp.io.files import read_regular, user_path

logger = logging.getLogger(__name__)

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pcx", ".pgm", ".pic", ".png", ".pnm", ".ppm", ".ras", ".sr", ".tga", ".tif",
    ".tiff", ".webp",
))
# fmt: on
# 300 MB of pixels, as RGB.
MAX_PIXELS = 100_000_000
# No format needs more for a pixel than four channels of 32 bits.
_MAX_BYTES_PER_PIXEL = 16
# Pillow's own limit is a global of the process, and is set aside while a header is read.
_OPENING = threading.Lock()
# Pillow imports its common formats when it opens the first image: stopped in the middle of that,
# Python 3.11 raises a RuntimeError, for which a sound image would be taken for a damaged one.
Image.preinit()


class UnreadableImageError(ValueError):
    """The file is not an image that can be decoded, or one that is too large."""


class ImageScaleError(ValueError):
    """The file's values are outside the scale that its folder's are read by."""


# ---- folders


def list_images(root: str | Path) -> Iterator[str]:
    """:func:`list_files` of the image formats that can be read; of a corpus (see
    :mod:`~detectron2_agssp.io.corpus_file`), the images that its manifest lists."""
    folder = root if "://" in str(root) else user_path(root)
    if is_corpus(folder):
        return (entry["image"] for entry in corpus_entries(folder))
    return list_files(root, IMAGE_SUFFIXES)


def list_files(
    root: str | Path, suffixes: Collection[str], left_out: Callable[[str], object] = logger.warning
) -> Iterator[str]:
    """Yields the files below ``root`` as relative POSIX paths, in a fixed (sorted) order.

    Folders are walked one at a time, so memory does not grow with the number of images, but for
    the names of the largest folder. Links are followed, but not in a circle; a folder that cannot
    be read is left out.

    Args:
        root: a folder, or a URL of one that Detectron2's PathManager can list.
        suffixes: of the files, in small letters.
        left_out: is told of each folder that is left out.

    Raises:
        FileNotFoundError: ``root`` is not a folder.
    """
    root = os.fspath(root)
    if "://" in root:
        from detectron2.utils.file_io import PathManager

        known, above = PathManager.isdir(root), set()
        list_folder: Callable[[str], list[tuple]] = _list_remote
    else:
        root = os.fspath(user_path(root))
        known, list_folder = os.path.isdir(root), _list_local
        real = Path(root).resolve()
        # A link to a folder above would lead here again.
        above = {_identity(os.stat(path)) for path in (real, *real.parents)} if known else set()
    if not known:
        raise FileNotFoundError(f"Image folder {root!r} does not exist or is not a folder.")
    # Not recursive: folders may be nested deeper than Python's calls.
    path, prefix = root.rstrip("/"), ""
    stack: list[tuple] = [(path, prefix, None, iter(list_folder(root)))]
    while stack:
        path, prefix, identity, entries = stack[-1]
        name, inner = next(entries, ("", None))
        if not name:
            stack.pop()
            above.discard(identity)
        elif name.startswith("."):
            continue
        elif inner is None:
            if os.path.splitext(name)[1].lower() in suffixes:
                yield prefix + name
        elif inner in above:
            left_out(f"Left out the folder {path}/{name}: it leads in a circle.")
        else:
            try:
                listed = list_folder(f"{path}/{name}")
            except OSError as error:
                left_out(f"Left out a folder that cannot be read: {error}")
                continue
            above.add(inner)
            stack.append((f"{path}/{name}", f"{prefix}{name}/", inner, iter(listed)))


def _list_local(folder: str) -> list[tuple[str, tuple | None]]:
    """Sorted names, and of folders what tells them from others; None for files."""
    listed = []
    with os.scandir(folder) as scan:
        for entry in scan:
            try:
                identity = _identity(entry.stat()) if entry.is_dir() else None
            except OSError:
                identity = None  # a link to nowhere or to itself: reading it will say so
            listed.append((entry.name, identity))
    return sorted(listed, key=lambda item: item[0])


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _list_remote(folder: str) -> list[tuple[str, str | None]]:
    from detectron2.utils.file_io import PathManager

    names = sorted(name.rstrip("/") for name in PathManager.ls(folder))
    paths = [f"{folder.rstrip('/')}/{name}" for name in names]
    # An image's suffix saves asking for each.
    return [
        (name, path if not _is_image(name) and PathManager.isdir(path) else None)
        for name, path in zip(names, paths, strict=True)
    ]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


# ---- reading


class ImageReader:
    """Reads images as (H, W, 3) uint8 in [0, 255], EXIF orientation applied.

    Grey images are repeated over the channels, an alpha channel is dropped. Values beyond 8 bits
    are scaled linearly, by the same scale in every image: the same grey stays the same grey. An
    image with values outside that scale is refused rather than read by another one.

    Args:
        bit_depth: significant bits of integers that are stored with more than 8; 0 means 16.
        float_max: what is white in floating-point images; 0 is black. NaN is read as black.
        max_pixels: of an image; a larger one is refused before it is decoded.

    Raises:
        ValueError: an argument is out of its range (named by its key).
    """

    @configurable
    def __init__(self, *, bit_depth: int = 0, float_max: float = 1.0, max_pixels: int = MAX_PIXELS):
        if bit_depth != 0 and not 8 <= bit_depth <= 32:
            raise ValueError(
                f"AGSSP.INPUT.BIT_DEPTH must be 0 or between 8 and 32, got {bit_depth}."
            )
        if not 0 < float_max < math.inf:
            raise ValueError(f"AGSSP.INPUT.FLOAT_MAX must be positive, got {float_max}.")
        if max_pixels < 1:
            raise ValueError(f"AGSSP.INPUT.MAX_PIXELS must be positive, got {max_pixels}.")
        self.bit_depth = bit_depth
        self.float_max = float_max
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg):
        node = cfg.AGSSP.INPUT
        return {
            "bit_depth": node.BIT_DEPTH,
            "float_max": node.FLOAT_MAX,
            "max_pixels": node.MAX_PIXELS,
        }

    def __call__(self, path: str | Path, image_format: str = "RGB") -> np.ndarray:
        """Reads one image.

        Args:
            path: a local path, or anything that Detectron2's PathManager opens.
            image_format: "RGB" or "BGR", the channel order returned.

        Raises:
            FileNotFoundError, OSError: no such file, or it cannot be opened.
            UnreadableImageError: it is no file, cannot be decoded, or has too many pixels.
            ImageScaleError: its values are outside the scale.
            ValueError: ``image_format`` is not one of those above.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
        name = os.fspath(path)
        _, image = read_decoded(name, self.max_pixels)
        image = _to_three_channels(self._to_uint8(image, name))
        # Pillow's arrays are read-only.
        return np.require(
            image if image_format == "RGB" else image[:, :, ::-1], requirements=["C", "W"]
        )

    def _to_uint8(self, image: np.ndarray, name: str) -> np.ndarray:
        if image.dtype == np.uint8:
            return image
        if np.issubdtype(image.dtype, np.integer):
            white, key = 2 ** (self.bit_depth or 16) - 1, "BIT_DEPTH"
        else:
            image = np.where(np.isnan(image), 0, image)
            white, key = self.float_max, "FLOAT_MAX"
        low, high = image.min().item(), image.max().item()
        if low < 0 or high > white:
            fitting = int(high).bit_length() if key == "BIT_DEPTH" else f"{high:g}"
            raise ImageScaleError(
                f"{name!r} holds values from {low:g} to {high:g}, but 0 is read as black and "
                f"{white:g} as white, in all images alike. Set AGSSP.INPUT.{key} to what the "
                f"camera's values need ({fitting} or more for this image), or take the image out."
            )
        if image.dtype == np.uint16:
            # A table, as a large image in float64 takes eight times the memory.
            return np.rint(np.arange(high + 1) / white * 255).astype(np.uint8)[image]
        return np.rint(image / white * 255).astype(np.uint8)


def read_image(path: str | Path, image_format: str = "RGB", **settings) -> np.ndarray:
    """Reads one image; ``settings`` are :class:`ImageReader`'s."""
    return ImageReader(**settings)(path, image_format)


def read_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """Height and width of an image as :class:`ImageReader` returns it, upright, and how its stored
    pixels lie: EXIF's orientation, 1 (upright) to 8; of TIFF, 1. The scale of its values does not
    count.

    Raises:
        FileNotFoundError, OSError, UnreadableImageError: as :class:`ImageReader`.
    """
    name = os.fspath(path)
    try:
        with _open(read_encoded(name, max_pixels)) as picture:
            (width, height), kind = picture.size, picture.format
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a damaged header raises, and formats that OpenCV alone reads
        kind = None
    if kind in (None, "TIFF"):  # whose size some releases of Pillow turn by themselves
        height, width = read_decoded(name, max_pixels)[1].shape[:2]
        return height, width, 1
    if orientation not in range(1, 9):
        orientation = 1
    return (width, height, orientation) if orientation > 4 else (height, width, orientation)


def read_decoded(name: str, max_pixels: int, what: str = "") -> tuple[bytes, np.ndarray]:
    """A file's content and its pixels, as :func:`decode_image` has them; ``what`` begins the
    message of an error."""
    encoded = read_encoded(name, max_pixels)
    image, reason = decode_image(encoded, max_pixels)
    if image is None or image.size == 0:
        raise UnreadableImageError(f"{what}{name!r} ({len(encoded)} bytes) {reason}")
    return encoded, image


def read_encoded(name: str, max_pixels: int) -> bytes:
    """The content of a file, or of a URL that Detectron2's PathManager opens.

    Raises:
        FileNotFoundError, OSError, UnreadableImageError: no such file; no file at all, or more
            bytes than ``max_pixels`` can need.
    """
    if "://" in name:
        from detectron2.utils.file_io import PathManager

        with PathManager.open(name, "rb") as file:
            return file.read()
    try:
        return read_regular(name, _MAX_BYTES_PER_PIXEL * max_pixels + 2**20)
    except ValueError as error:
        raise UnreadableImageError(str(error)) from error


def decode_image(encoded: bytes, max_pixels: int) -> tuple[np.ndarray | None, str]:
    """(H, W) or (H, W, C), RGB order, in the file's own depth; or None and the reason.

    A decoder may raise anything at all for a damaged file: whatever it raises says that the file
    cannot be read. OpenCV is asked where Pillow fails, but only with a size that is known.
    """
    size, reason = None, "is not an image that Pillow or OpenCV can decode; it may be truncated"
    try:
        with _open(encoded) as picture:
            size = picture.size
            if math.prod(size) <= max_pixels and not _loses_bits(picture):
                return _pixels(picture), ""
    except MemoryError:
        _check_memory(size)
        reason = "cannot be decoded: its decoder asks for more memory than its size needs"
    except Exception as error:
        if not isinstance(error, UnidentifiedImageError):
            # Without addresses: the same file is skipped with the same reason in every run.
            detail = re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
            reason = f"{reason} ({detail})"
        # OpenCV 4 makes the missing part of a truncated JPEG grey, and says nothing.
        if encoded.startswith(b"\xff\xd8"):
            return None, f"{reason}."
    if size is None:
        size = _size_in_header(encoded)
    if size is None:
        return None, f"{reason}."
    if math.prod(size) > max_pixels:
        return None, (
            f"has {size[0]} x {size[1]} pixels, more than AGSSP.INPUT.MAX_PIXELS ({max_pixels}). "
            "Raise it, if the memory is there, or take the image out."
        )
    return _decode_with_opencv(encoded, size), f"{reason}."


def _open(encoded: bytes) -> Image.Image:
    """Reads the header only, of an image of any size."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(io.BytesIO(encoded))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if picture.format == "EPS":
        # A program in PostScript, for which Pillow would start Ghostscript.
        raise UnidentifiedImageError
    return picture


def _loses_bits(picture: Image.Image) -> bool:
    """Whether Pillow would keep the upper 8 of 16 bits of each channel."""
    return re.search(r"(RGB\w?|LA);16", str(getattr(picture, "tile", ""))) is not None


def _pixels(picture: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(picture)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _check_memory(size: tuple[int, int] | None) -> None:
    """Goes on raising a MemoryError where it is this process that has none left."""
    np.empty(_MAX_BYTES_PER_PIXEL * math.prod(size or (1024, 1024)), np.uint8)


def _size_in_header(encoded: bytes) -> tuple[int, int] | None:
    """Width and height of the formats that OpenCV knows and Pillow does not: Radiance, OpenEXR,
    and TIFF of kinds like float32 RGB. None where it is none of them."""
    head = encoded[:65536]
    if head.startswith(b"#?") and (match := re.search(rb"\n-Y (\d+) \+X (\d+)\n", head)):
        return int(match[2]), int(match[1])
    key = b"dataWindow\0box2i\0\x10\0\0\0"
    if head.startswith(b"\x76\x2f\x31\x01") and (start := head.find(key)) >= 0:
        window = head[start + len(key) :][:16]
        left, top, right, bottom = np.frombuffer(window.ljust(16, b"\0"), "<i4").tolist()
        return right - left + 1, bottom - top + 1
    if head[:4] in (b"II*\0", b"MM\0*"):
        try:
            directory = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
            file = io.BytesIO(encoded)
            file.seek(directory.next)
            directory.load(file)
            return int(directory[256]), int(directory[257])
        except Exception:
            return None  # a damaged directory; Pillow has its own ways of saying so
    return None


def _decode_with_opencv(encoded: bytes, size: tuple[int, int]) -> np.ndarray | None:
    try:
        image = cv2.imdecode(
            np.frombuffer(encoded, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            _check_memory(size)
        return None
    if image is not None and image.ndim == 3:
        image = image[:, :, 2::-1]
    return image


def _to_three_channels(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return image[:, :, :3]
