"""Reading images: formats, depths, channel orders, and files that are none."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.io.images import (
    ImageReader,
    ImageScaleError,
    UnreadableImageError,
    read_header,
    read_image,
)

# ---- formats


@pytest.fixture
def colours():
    """Each channel rises along another way; smooth, so that JPEG keeps it."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, 240 - x * 3 - y * 3], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.png", "RGB", 0),
        ("a.bmp", "RGB", 0),
        ("a.tif", "RGB", 0),
        ("a.png", "RGBA", 0),
        ("a.jpg", "RGB", 12),
        ("a.webp", "RGB", 16),
        ("a.gif", "P", 60),
        ("a.png", "P", 60),
        ("a.jpg", "CMYK", 12),
        ("a.tif", "CMYK", 1),
    ],
)
def test_colour(tmp_path, colours, name, mode, tolerance):
    path = tmp_path / name
    Image.fromarray(colours).convert(mode).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_allclose(image.astype(int), colours, atol=tolerance)
    np.testing.assert_array_equal(read_image(path, "BGR"), image[:, :, ::-1])
    assert read_image(str(path), "BGR").flags.c_contiguous


def test_alpha_is_dropped_not_blended(tmp_path, colours):
    transparent = np.dstack([colours, np.zeros(colours.shape[:2], np.uint8)])
    Image.fromarray(transparent).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours)


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("LA", "a.png"), ("1", "a.tif")])
def test_grey_is_repeated(tmp_path, colours, mode, name):
    picture = Image.fromarray(colours).convert(mode)
    picture.save(tmp_path / name)
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(read_image(tmp_path / name), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bit_depth", [0, 10, 12, 16])
def test_sixteen_bits(tmp_path, name, channels, bit_depth):
    """Scaled from the full range, whatever the image's own extremes are."""
    full = 2 ** (bit_depth or 16) - 1
    stored = np.linspace(0.2 * full, 0.7 * full, 24 * 40 * channels).astype(np.uint16)
    stored = stored.reshape(24, 40, channels)
    cv2.imwrite(str(tmp_path / name), stored[:, :, ::-1])
    expected = np.broadcast_to(np.rint(stored / full * 255), (24, 40, 3))
    np.testing.assert_array_equal(read_image(tmp_path / name, bit_depth=bit_depth), expected)


@pytest.mark.parametrize("scale", [0.5, 1.0, 255.0, 4095.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_floating_point(tmp_path, scale, channels):
    values = np.array([[0.0, 0.25, 1.0, np.nan]], np.float32) * scale
    cv2.imwrite(str(tmp_path / "a.tif"), np.stack([values] * channels, axis=2))
    image = read_image(tmp_path / "a.tif", float_max=scale)
    assert image[0, :, 2].tolist() == [0, 64, 255, 0]


def test_integers_of_32_bits(tmp_path):
    values = np.array([[0, 2**18, 2**20 - 1]], np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", bit_depth=20)[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (np.float32([[0.2, 1.004]]), {}, r"from 0\.2 to 1\.004.*FLOAT_MAX .*\(1\.004 or more"),
        (np.float32([[0.2, 4000]]), {"float_max": 255}, "255 as white.*FLOAT_MAX"),
        (np.float32([[-0.1, 0.5]]), {}, "from -0.1 to 0.5.*FLOAT_MAX"),
        (np.float32([[0.5, np.inf]]), {}, "to inf.*FLOAT_MAX"),
        (np.int32([[0, 2**20 - 1]]), {}, r"65535 as white.*BIT_DEPTH .*\(20 or more"),
        (np.int32([[-1, 5]]), {"bit_depth": 32}, "from -1 to 5.*BIT_DEPTH"),
        (np.uint16([[0, 4096]]), {"bit_depth": 12}, r"4095 as white.*BIT_DEPTH .*\(13 or more"),
    ],
)
def test_one_scale_for_all_images(tmp_path, values, settings, message):
    """A scale by each image's own values would make the same grey another one."""
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageScaleError, match=rf"a\.tif' holds values .*{message}"):
        read_image(tmp_path / "a.tif", **settings)


def test_the_scale_is_the_config_s(tmp_path, tiny_cfg):
    tiny_cfg.AGSSP.INPUT.FLOAT_MAX = 2.0
    tiny_cfg.AGSSP.INPUT.BIT_DEPTH = 10
    tiny_cfg.AGSSP.INPUT.MAX_PIXELS = 6
    reader = ImageReader(tiny_cfg)
    Image.fromarray(np.float32([[0, 1.004, 2]])).save(tmp_path / "a.tif")
    assert reader(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.uint16([[0, 512, 1023]])).save(tmp_path / "a.png")
    assert reader(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]
    Image.new("L", (7, 1)).save(tmp_path / "b.png")
    with pytest.raises(UnreadableImageError, match=r"7 x 1 pixels, more than .*MAX_PIXELS \(6\)"):
        reader(tmp_path / "b.png")


def test_exif_orientation(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(colours, -1))


def test_exif_orientation_of_what_opencv_reads(tmp_path, colours):
    deep = colours.astype(np.uint16) * 257
    encoded = cv2.imencode(".png", deep[:, :, ::-1])[1].tobytes()
    # Little-endian TIFF with one entry: orientation 6.
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    chunk = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    after_header = 33
    (tmp_path / "a.png").write_bytes(encoded[:after_header] + chunk + encoded[after_header:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(colours, -1))


def test_header(tmp_path, colours):
    """Size and orientation, whatever the values; also of what OpenCV alone reads."""
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(np.float32(colours[:, :, 0]) * 100).save(tmp_path / "a.tif", exif=exif)
    assert read_header(tmp_path / "a.tif") == (40, 24, 1)
    Image.fromarray(colours).save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg") == (40, 24, 8)
    exif[0x0112] = 70
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    assert read_header(tmp_path / "a.png") == (24, 40, 1)
    cv2.imwrite(str(tmp_path / "b.tif"), np.float32(colours))
    assert read_header(tmp_path / "b.tif") == (24, 40, 1)
    (tmp_path / "c.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableImageError, match=r"c\.png"):
        read_header(tmp_path / "c.png")


# ---- what is no image


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_truncated(tmp_path, colours, suffix, share):
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 99, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UnreadableImageError, match=rf"cut\.{suffix}' \(\d+ bytes\).*truncated"):
        read_image(path)


def test_opencv_is_not_asked_to_fill_a_truncated_jpeg(tmp_path, colours, monkeypatch):
    """Its version 4 makes the missing part grey."""
    Image.fromarray(colours).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: colours)
    with pytest.raises(UnreadableImageError):
        read_image(tmp_path / "a.jpg")


def test_opencv_reads_what_pillow_does_not(tmp_path, colours):
    cv2.imwrite(str(tmp_path / "a.hdr"), colours[:, :, ::-1].astype(np.float32) / 255)
    np.testing.assert_allclose(read_image(tmp_path / "a.hdr").astype(int), colours, atol=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_format": "GRAY"}, "'RGB' or 'BGR', got 'GRAY'"),
        ({"bit_depth": 7}, "BIT_DEPTH must be 0 or between 8 and 32, got 7"),
        ({"bit_depth": 33}, "got 33"),
        ({"float_max": 0.0}, r"FLOAT_MAX must be positive, got 0\.0"),
        ({"float_max": float("nan")}, "got nan"),
        ({"max_pixels": 0}, "MAX_PIXELS must be positive, got 0"),
    ],
)
def test_bad_arguments(tmp_path, colours, settings, message):
    Image.fromarray(colours).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "a.png", **settings)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
