"""Small images of every kind that the reader knows, to be damaged."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detectron2_agssp.io.images import ImageReader

HEIGHT, WIDTH = 24, 40


def image_readers(folder: Path) -> dict[Path, Callable[[], object]]:
    """Writes the images; each is read by the one reader."""
    reader = ImageReader(max_pixels=1_000_000)
    readers = {}
    for name, content in encoded_images():
        path = folder / name
        path.write_bytes(content)
        readers[path] = partial(reader, path)
    return readers


def encoded_images() -> Iterator[tuple[str, bytes]]:
    """Name and content of each."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3))
    pixels = (np.stack([x * 4, y * 8, 200 - x - y], axis=2) + noise).astype(np.uint8)
    colours = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [colours.rotate(90), colours]}
    kinds = {
        "a.png": (colours, {}),
        "exif.png": (colours, {"exif": exif}),
        "palette.png": (colours.convert("P"), {}),
        "bits.png": (colours.convert("1"), {}),
        "alpha.png": (colours.convert("RGBA"), {}),
        "deep.png": (Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200), {}),
        "animated.png": (colours, frames),
        "a.jpg": (colours, {"exif": exif}),
        "progressive.jpg": (colours, {"progressive": True, "quality": 60}),
        "grey.jpeg": (colours.convert("L"), {"optimize": True}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "a.bmp": (colours, {}),
        "palette.bmp": (colours.convert("P"), {}),
        "a.dib": (colours, {}),
        "a.gif": (colours, {}),
        "animated.gif": (colours, frames),
        "a.tif": (colours, {}),
        "lzw.tif": (colours, {"compression": "tiff_lzw"}),
        "deflate.tif": (colours, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (colours, {"compression": "jpeg"}),
        "fax.tif": (colours.convert("1"), {"compression": "group4"}),
        "float.tif": (Image.fromarray(np.float32(pixels[:, :, 0]) / 255), {}),
        "deep.tif": (Image.fromarray(pixels[:, :, 0].astype(np.int32)), {"exif": exif}),
        "pages.tif": (colours, frames),
        "a.webp": (colours, {"exif": exif}),
        "lossless.webp": (colours.convert("RGBA"), {"lossless": True}),
        "animated.webp": (colours, frames),
        "a.avif": (colours, {"speed": 10}),
        "a.jp2": (colours, {}),
        "a.pcx": (colours, {}),
        "a.tga": (colours, {"compression": "tga_rle"}),
        "a.ppm": (colours, {}),
        "a.pgm": (colours.convert("L"), {}),
        "a.pbm": (colours.convert("1"), {}),
        # Told by their content, under any name.
        "a.blp": (colours.convert("P"), {}),
        "a.dds": (colours, {"pixel_format": "DXT1"}),
        "a.ico": (colours, {}),
        "a.sgi": (colours, {}),
        "a.im": (colours, {}),
        "a.msp": (colours.convert("1"), {}),
        "a.eps": (colours, {}),
        "a.mpo": (colours, frames),
    }
    for name, (picture, options) in kinds.items():
        file = io.BytesIO()
        suffix = Path(name).suffix
        try:
            picture.save(file, Image.registered_extensions()[suffix], **options)
        except (KeyError, OSError, ValueError):
            continue  # this Pillow does not write it
        yield name, file.getvalue()
    deep = pixels.astype(np.uint16) * 200
    floats = pixels.astype(np.float32) / 255
    for name, values in {
        "colours.png": deep,
        "colours.tif": floats,
        "deep colours.tif": deep,
        "a.hdr": floats,
        "a.ras": pixels,
    }.items():
        yield name, cv2.imencode(Path(name).suffix, values)[1].tobytes()
