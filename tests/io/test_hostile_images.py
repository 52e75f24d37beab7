"""Images that are too large, damaged, or no files: refused by name, and nothing hangs."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.io.images import (
    ImageScaleError,
    UnreadableImageError,
    list_images,
    read_image,
)


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def large_png(side: int) -> bytes:
    """The header of an image of side x side pixels, and hardly any of its content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b"")


RADIANCE = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 20000\n" + bytes(99)


@pytest.mark.parametrize(
    ("name", "content", "size"),
    [("a.png", large_png(30_000), "30000 x 30000"), ("a.hdr", RADIANCE, "20000 x 30000")],
)
def test_large_images_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, name, content, size
):
    (tmp_path / name).write_bytes(content)

    def decode(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImageError, match=rf"{name}'.* has {size} pixels.*MAX_PIXELS"):
        read_image(tmp_path / name)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_float_tiff_of_colours_is_bounded(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.full((9, 8, 3), 0.5, np.float32))
    assert (read_image(tmp_path / "a.tif", max_pixels=72) == 128).all()
    with pytest.raises(UnreadableImageError, match="has 8 x 9 pixels, more than"):
        read_image(tmp_path / "a.tif", max_pixels=71)


def test_pillow_s_own_limit_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    Image.new("L", (30, 20), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (20, 30, 3)


def test_what_is_no_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "self.png").symlink_to("self.png")
    for name in ("pipe", "device", "folder"):
        with pytest.raises(UnreadableImageError, match=rf"{name}\.png' is a .*, not a file"):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(OSError, match=r"self\.png"):
        read_image(tmp_path / "self.png")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImageError, match=r"sparse\.png' has 1099511627776 bytes"):
        read_image(tmp_path / "sparse.png")


def test_no_program_is_started_for_postscript(tmp_path, colours, monkeypatch):
    """Whatever the file's name says; Pillow would start Ghostscript."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/marker\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", str(tmp_path / "gs"))
    Image.fromarray(colours).save(tmp_path / "a.png", "EPS")
    with pytest.raises(UnreadableImageError, match=r"a\.png'.* is not an image"):
        read_image(tmp_path / "a.png")
    assert not (tmp_path / "marker").exists()


def test_a_name_that_is_not_utf_8(tmp_path, colours):
    with open(os.fsencode(tmp_path / "a") + b"\xff.png", "wb") as file:
        Image.fromarray(colours).save(file, "png")
    (name,) = list_images(tmp_path)
    np.testing.assert_array_equal(read_image(os.path.join(tmp_path, name)), colours)


# ---- damaged files


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x at 0x7f"), TypeError(), NotImplementedError(), KeyError(3), RecursionError()],
)
def test_whatever_a_decoder_raises_means_unreadable(tmp_path, colours, monkeypatch, error):
    Image.fromarray(colours).save(tmp_path / "a.jpg")

    def fail(*arguments):
        raise error

    monkeypatch.setattr("detectron2_agssp.io.images._pixels", fail)
    with pytest.raises(UnreadableImageError, match=rf"a\.jpg'.*{type(error).__name__}") as raised:
        read_image(tmp_path / "a.jpg")
    assert "0x" not in str(raised.value)


def test_memory_that_a_damaged_file_asks_for_and_our_own(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))

    def fail(*arguments, **keywords):
        raise MemoryError

    monkeypatch.setattr("detectron2_agssp.io.images._open", fail)
    with pytest.raises(UnreadableImageError, match=r"a\.png'.*asks for more memory"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "bmp", "tif", "gif", "webp", "avif", "pcx", "tga", "jp2", "dds", "blp"]
)
def test_mutated_files_are_read_or_refused(tmp_path, colours, suffix):
    path = tmp_path / f"a.{suffix}"
    picture = Image.fromarray(colours)
    try:
        (picture.convert("P") if suffix == "blp" else picture).save(path)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {suffix}")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=1 + number % 8):
            content[place] = rng.integers(256)
        if number % 3 == 0:
            content = content[: rng.integers(1, len(content))]
        path.write_bytes(content)
        try:
            assert read_image(path, max_pixels=10_000).dtype == np.uint8
        except (UnreadableImageError, ImageScaleError):
            refused += 1
    assert refused > 0
