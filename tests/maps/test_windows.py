"""Windows of images: the calmest of a map, and reading them."""

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.windows import Window, WindowReader, calmest_window


@pytest.mark.parametrize(
    ("size", "grid", "share"),
    [
        ((60, 90), (12, 12), 0.5),
        ((90, 60), (12, 12), 0.5),
        ((57, 200), (19, 50), 0.34),
        ((40, 40), (5, 8), 1.0),
        ((3, 400), (24, 24), 0.5),
        ((7, 5), (1, 1), 0.1),
    ],
)
def test_calmest_of_all_windows(size, grid, share):
    """Against the mean of every window of so many cells; it is inside the image."""
    anomaly_map = np.random.default_rng(0).random(grid).astype(np.float32)
    mean, window = calmest_window(anomaly_map, "a.png", *size, share)
    side = max(1, round(share * min(size)))
    cells = [max(1, round(side * n / pixels)) for n, pixels in zip(grid, size, strict=True)]
    every = np.lib.stride_tricks.sliding_window_view(anomaly_map, cells).mean(axis=(2, 3))
    assert mean == pytest.approx(every.min(), rel=1e-5)
    assert (window.image, window.side) == ("a.png", side)
    row, column = np.unravel_index(every.argmin(), every.shape)
    expected = row * size[0] / grid[0], column * size[1] / grid[1]
    for start, length, wanted in zip((window.top, window.left), size, expected, strict=True):
        assert 0 <= start <= length - side
        assert start == pytest.approx(min(wanted, length - side), abs=0.5)


def test_mirrored_to_the_size_of_the_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    (tmp_path / "line").mkdir()
    Image.fromarray(pixels).save(tmp_path / "line/a.png")
    window = Window("line/a.png", top=14, left=20, side=12)
    read = WindowReader(ImageReader(), tmp_path, [window])(str(tmp_path / "line/a.png"))
    cut = pixels[14:26, 20:32]
    assert (read.shape, read.dtype) == (pixels.shape, np.uint8)
    np.testing.assert_array_equal(read[:12, :12], cut)
    np.testing.assert_array_equal(read[12:24, :12], cut[::-1])
    np.testing.assert_array_equal(read[24:, 24:36], cut[:6])
    np.testing.assert_array_equal(read[:12, 12:24], cut[:, ::-1])


def test_the_whole_image(tmp_path):
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(tmp_path / "a.png")
    read = WindowReader(ImageReader(), tmp_path, [Window("a.png", 0, 0, 9)])
    assert read(str(tmp_path / "a.png")).shape == (9, 9, 3)
