"""Reading images: formats, depths, channel orders, and files that are none."""

import cv2
import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.io.images import UnreadableImageError, list_images, read_image

# ---- folders


def test_listing(tmp_path):
    names = ["b.PNG", "a.jpg", "a/z.tif", "a/b/c.JpEg", "a b/ü.webp", "c.bmp"]
    others = ["a.txt", "png", "x.npy", ".hidden.png", ".git/a.png", "a/desktop.ini"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = ["a/b/c.JpEg", "a/z.tif", "a b/ü.webp", "a.jpg", "b.PNG", "c.bmp"]
    assert list(list_images(tmp_path)) == expected
    assert list(list_images(str(tmp_path))) == expected


def test_links(tmp_path):
    """Folders are followed through links, but not in a circle."""
    for name in ("images/line", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").touch()
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/line/up").symlink_to(tmp_path / "images")
    (tmp_path / "images/line/self").symlink_to(".")
    assert list(list_images(tmp_path / "images")) == ["line/a.png", "linked/a.png"]


def test_no_folder(tmp_path):
    assert list(list_images(tmp_path)) == []
    (tmp_path / "a.png").touch()
    for path in (tmp_path / "gone", tmp_path / "a.png"):
        with pytest.raises(FileNotFoundError, match=rf"{path.name}' does not exist or is not"):
            list(list_images(path))


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


def test_values_beyond_the_depth_are_white(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 4095, 5000, 65535]], np.uint16))
    assert read_image(tmp_path / "a.png", bit_depth=12)[0, :, 0].tolist() == [0, 255, 255, 255]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floating_point(tmp_path, scale):
    values = np.array([[0.0, 0.25, 1.0, np.nan]], np.float32) * scale
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 64, 255, 0]


def test_exif_orientation(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(colours, -1))


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


def test_opencv_reads_what_pillow_does_not(tmp_path, colours, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.ras"), colours[:, :, ::-1])

    def refuse(*arguments):
        raise Image.UnidentifiedImageError

    monkeypatch.setattr(Image, "open", refuse)
    np.testing.assert_array_equal(read_image(tmp_path / "a.ras"), colours)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_format": "GRAY"}, "'RGB' or 'BGR', got 'GRAY'"),
        ({"bit_depth": 7}, "0 or between 8 and 16, got 7"),
        ({"bit_depth": 17}, "got 17"),
    ],
)
def test_bad_arguments(tmp_path, colours, settings, message):
    Image.fromarray(colours).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "a.png", **settings)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
