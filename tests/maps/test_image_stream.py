"""The lazy stream of images that scorers read."""

import itertools

import cv2
import numpy as np
import pytest

from detectron2_agssp.data.image_io import list_images, read_image
from detectron2_agssp.maps.image_stream import ImageLoader, chunks, resize_to_square, sample_paths


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(image_folder, workers):
    loader = ImageLoader(image_folder, image_size=16, batch_size=4, num_workers=workers)
    first, second = loader([*list_images(image_folder), "gone.png"])
    assert first.images.shape == (4, 3, 16, 16)
    names = [info["image"] for info in first.infos + second.infos]
    assert names == list(list_images(image_folder))
    (failure,) = second.failures
    assert failure["image"] == "gone.png"
    assert "FileNotFoundError" in failure["reason"]
    image = read_image(image_folder / names[1])
    info = {"image": names[1], "height": image.shape[0], "width": image.shape[1]}
    assert first.infos[1] == info
    pixels = first.images[1].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, resize_to_square(image, 16))


def test_stream_is_lazy(image_folder):
    """An endless stream of paths: whoever makes a list of it never ends."""
    loader = ImageLoader(image_folder, image_size=8, batch_size=2)
    batches = loader(itertools.repeat("a.png"))
    assert len(next(iter(batches)).infos) == 2


@pytest.mark.parametrize(
    ("size", "interpolation"),
    [((90, 60), cv2.INTER_AREA), ((8, 10), cv2.INTER_LINEAR), ((1, 1), cv2.INTER_LINEAR)],
)
def test_resize(size, interpolation):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    expected = cv2.resize(image, (32, 32), interpolation=interpolation)
    np.testing.assert_array_equal(resize_to_square(image, 32), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_long_side_of_a_strip_is_averaged(axis):
    """No pixel is left out, also where the short side has to grow."""
    stripes = np.resize(np.array([200] + [0] * 9, np.uint8), 320)
    strip = np.moveaxis(np.broadcast_to(stripes[:, None, None], (320, 7, 3)), 0, axis)
    np.testing.assert_allclose(resize_to_square(np.ascontiguousarray(strip), 32), 20, atol=1)


def test_sample():
    paths = [f"{n}.png" for n in range(100)]
    chosen = sample_paths(paths, 10, seed=0)
    assert len(chosen) == 10
    assert chosen == [path for path in paths if path in chosen], "in the given order"
    assert sample_paths(reversed(paths), 10, seed=0) == chosen[::-1], "whatever that order is"
    assert sample_paths(paths, 10, seed=1) != chosen
    assert sample_paths(paths, 1000, seed=0) == paths


def test_chunks():
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(chunks([], 2)) == []


def test_batch_size(image_folder):
    with pytest.raises(ValueError, match=r"BATCH_SIZE must be positive, got 0"):
        ImageLoader(image_folder, image_size=8, batch_size=0)
