"""Images of any size on a scorer's grid, and maps of crops as one map."""

import itertools

import cv2
import numpy as np
import pytest

from detectron2_agssp.maps.geometry import (
    InputGeometry,
    assemble,
    resize,
    tile_origins,
)


@pytest.mark.parametrize(
    ("size", "interpolation"),
    [((90, 60), cv2.INTER_AREA), ((8, 10), cv2.INTER_LINEAR), ((1, 1), cv2.INTER_LINEAR)],
)
def test_resize(size, interpolation):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    expected = cv2.resize(image, (32, 32), interpolation=interpolation)
    np.testing.assert_array_equal(resize(image, 32, 32), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_long_side_of_a_strip_is_averaged(axis):
    """No pixel is left out, also where the short side has to grow."""
    stripes = np.resize(np.array([200] + [0] * 9, np.uint8), 320)
    strip = np.moveaxis(np.broadcast_to(stripes[:, None, None], (320, 7, 3)), 0, axis)
    np.testing.assert_allclose(resize(np.ascontiguousarray(strip), 32, 32), 20, atol=1)


def grey(height, width):
    """A picture whose value is its place: red the row, green the column, of 255."""
    rows = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    columns = np.linspace(0, 255, width)[None].repeat(height, 0)
    return np.rint(np.stack([rows, columns, 0 * rows], axis=2)).astype(np.uint8)


def test_square():
    prepared = InputGeometry(image_size=32).prepare(grey(20, 90))
    assert prepared.crops.shape == (1, 3, 32, 32)
    assert prepared.grid is None


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((200, 200), (64, 64)),
        ((100, 400), (32, 128)),
        ((400, 100), (128, 32)),
        ((1, 900), (16, 1920)),
    ],
)
def test_aspect(size, expected):
    """As many pixels as the square's, nearly; sides are multiples of 16."""
    geometry = InputGeometry(mode="aspect", image_size=64, divisor=16)
    assert geometry.prepare(grey(*size)).crops.shape == (1, 3, *expected)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("length", [8, 9, 12, 15, 16, 17, 100, 257])
def test_tiles_cover_everything(length, overlap):
    origins = tile_origins(length, 8, overlap)
    assert origins[0] == 0
    assert origins[-1] == length - 8
    for first, second in itertools.pairwise(origins):
        assert 0 < second - first <= max(1, 8 * (1 - overlap))


def test_tile_origins_of_less_than_a_tile():
    assert tile_origins(5, 8, 0.25) == [0]


@pytest.mark.parametrize("size", [(64, 64), (100, 230), (257, 31), (8, 8), (2048, 512)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_become_the_image_again(size, overlap):
    """Cell means of the crops, put together, are the cell means of the whole image."""
    geometry = InputGeometry("tile", image_size=64, divisor=16, stride=8, overlap=overlap)
    image = grey(*size)
    prepared = geometry.prepare(image)
    assert prepared.crops.shape[1:] == (3, 64, 64)

    def cells(pixels):
        *lead, height, width = pixels.shape
        return pixels.reshape(*lead, height // 8, 8, width // 8, 8).mean(axis=(-3, -1))

    whole = assemble(cells(prepared.crops.astype(np.float32)), prepared.origins, prepared.grid)
    rows, columns = prepared.grid
    stretched = resize(image, 8 * rows, 8 * columns).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_allclose(whole, cells(stretched), atol=1e-3)
    # Red is the row and green the column: nothing is shifted, from border to border.
    np.testing.assert_allclose(whole[0, :, 0], 255 * (np.arange(rows) + 0.5) / rows, atol=20)
    np.testing.assert_allclose(whole[1, 0], 255 * (np.arange(columns) + 0.5) / columns, atol=20)
    if min(size) >= 64:
        assert abs(rows - size[0] / 8) <= 0.5
        assert abs(columns - size[1] / 8) <= 0.5


def test_seams_are_blended():
    """Two tiles that disagree meet in a slope, not in a step."""
    maps = np.stack([np.zeros((4, 8)), np.ones((4, 8))])
    whole = assemble(maps, [(0, 0), (0, 4)], (4, 12))
    assert (whole[:, :4] == 0).all()
    assert (whole[:, 8:] == 1).all()
    steps = np.diff(whole[1], axis=0)
    assert (steps >= 0).all()
    assert steps.max() < 0.5


def test_scale():
    geometry = InputGeometry("tile", image_size=64, divisor=16, stride=16, scale=0.5)
    prepared = geometry.prepare(grey(256, 512))
    assert prepared.grid == (8, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "crop"}, "RESIZE is 'crop'. Choices: square, aspect, tile"),
        ({"image_size": 0}, "IMAGE_SIZE must be positive, got 0"),
        ({"mode": "tile", "overlap": 0.6}, r"TILE_OVERLAP in \[0, 0.5\].*got 0.6"),
        ({"mode": "tile", "scale": 0}, "positive TILE_SCALE, got 0.25 and 0"),
        ({"mode": "tile", "image_size": 60, "stride": 8}, "60, is the side.*multiple of 8"),
    ],
)
def test_bad_geometry(settings, message):
    with pytest.raises(ValueError, match=message):
        InputGeometry(**settings)
