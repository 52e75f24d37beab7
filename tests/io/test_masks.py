"""Masks are looked at: values that are neither 0 nor above the threshold are no silent misses."""

import cv2
import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.io.images import UnreadableImageError
from detectron2_agssp.io.masks import MaskValueError, read_mask


@pytest.fixture
def shape():
    mask = np.zeros((20, 40), np.uint8)
    mask[4:9, 5:25] = 1
    return mask


@pytest.mark.parametrize(
    ("make", "threshold"),
    [
        (lambda shape: Image.fromarray(shape * np.uint8(255)), 127),
        (lambda shape: Image.fromarray(shape * np.uint8(60)), 0),
        (lambda shape: Image.fromarray(shape), 0),
        (lambda shape: Image.fromarray(shape.astype(bool)), 127),
        (lambda shape: Image.fromarray(shape.astype(np.uint16) * 65535), 127),
        (lambda shape: Image.fromarray(shape.astype(np.uint16)), 0),
        (lambda shape: Image.fromarray(np.stack([shape * 200, shape, shape], 2)), 127),
        (lambda shape: Image.fromarray(np.dstack([shape * 255] * 3 + [255 - shape])), 127),
    ],
)
def test_depths_and_modes(tmp_path, shape, make, threshold):
    make(shape).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png", threshold)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, shape > 0)


def test_floating_point(tmp_path, shape):
    Image.fromarray(np.where(shape, 1, np.nan).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif", 0), shape > 0)


@pytest.mark.parametrize("code", [1, 60, 127])
def test_class_codes_are_refused(tmp_path, shape, code):
    """Beside a defect that is above the threshold, and alone."""
    for other in (255, 0):
        values = shape * np.uint8(code)
        values[12:18, 30:36] = other
        Image.fromarray(values).save(tmp_path / "a.png")
        message = rf"a\.png' has regions of the value {code}, .*threshold of 127.*threshold to 0"
        with pytest.raises(MaskValueError, match=message):
            read_mask(tmp_path / "a.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png", 0), values > 0)


def test_soft_edges_are_no_codes(tmp_path, shape):
    soft = cv2.GaussianBlur(shape * np.uint8(255), (0, 0), 1)
    Image.fromarray(soft).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), soft > 127)


def test_jpeg_s_noise_is_no_code(tmp_path):
    mask = np.zeros((64, 96), np.uint8)
    cv2.circle(mask, (50, 30), 20, 255, -1)
    cv2.imwrite(str(tmp_path / "a.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 30])
    assert ((read_mask(tmp_path / "a.jpg") != (mask > 0)).mean()) < 0.02


def test_what_is_no_mask_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UnreadableImageError, match=r"Mask .*a\.png' \(8 bytes\) is not an image"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")
    Image.new("L", (8, 9)).save(tmp_path / "large.png")
    with pytest.raises(UnreadableImageError, match="has 8 x 9 pixels, more than"):
        read_mask(tmp_path / "large.png", max_pixels=71)
