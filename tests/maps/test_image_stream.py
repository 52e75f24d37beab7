"""The lazy stream of images that scorers read."""

import itertools

import numpy as np
import pytest
import torch

from detectron2_agssp.io.images import list_images, read_image
from detectron2_agssp.maps.geometry import InputGeometry, resize
from detectron2_agssp.maps.image_stream import (
    ImageLoader,
    chunks,
    file_state,
    sample_paths,
    sample_paths_by_source,
)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(image_folder, workers):
    loader = ImageLoader(
        image_folder, geometry=InputGeometry(image_size=16), batch_size=4, num_workers=workers
    )
    first, second = loader([*list_images(image_folder), "gone.png"])
    (group,) = first.groups
    assert group.crops.shape == (4, 3, 16, 16)
    assert group.images == [0, 1, 2, 3]
    names = [info["image"] for info in first.infos + second.infos]
    assert names == list(list_images(image_folder))
    (failure,) = second.failures
    assert failure["image"] == "gone.png"
    assert "FileNotFoundError" in failure["reason"]
    image = read_image(image_folder / names[1])
    info = {"image": names[1], "height": image.shape[0], "width": image.shape[1]}
    state = file_state(str(image_folder / names[1]))
    assert state["bytes"] == (image_folder / names[1]).stat().st_size
    assert first.infos[1] == {**info, "source": image_folder.name, **state}
    pixels = group.crops[1].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, resize(image, 16, 16))


def test_stream_is_lazy(image_folder):
    """An endless stream of paths: whoever makes a list of it never ends."""
    loader = ImageLoader(image_folder, geometry=InputGeometry(image_size=8), batch_size=2)
    batches = loader(itertools.repeat("a.png"))
    assert len(next(iter(batches)).infos) == 2


def test_sample():
    paths = [f"{n}.png" for n in range(100)]
    chosen = sample_paths(paths, 10, seed=0)
    assert len(chosen) == 10
    assert chosen == [path for path in paths if path in chosen], "in the given order"
    assert sample_paths(reversed(paths), 10, seed=0) == chosen[::-1], "whatever that order is"
    assert sample_paths(paths, 10, seed=1) != chosen
    assert sample_paths(paths, 1000, seed=0) == paths


def test_sample_by_source():
    paths = [f"{source}/{n}.png" for source in "ab" for n in range(20)] + ["z.png"]
    chosen = sample_paths_by_source(paths, 4, 0, "/data/root")
    assert {source: len(names) for source, names in chosen.items()} == {"a": 4, "b": 4, "root": 1}
    for source in "ab":
        of_source = [path for path in paths if path.startswith(f"{source}/")]
        assert chosen[source] == sample_paths(of_source, 4, 0)


def test_sources_apart_and_shapes_apart(image_folder):
    geometry = InputGeometry(mode="aspect", image_size=32, divisor=16)
    paths = list(list_images(image_folder))
    for separate in (True, False):
        loader = ImageLoader(
            image_folder, geometry=geometry, batch_size=2, separate_sources=separate
        )
        (batch,) = loader(paths)
        keys = [(group.source, tuple(group.crops.shape[2:])) for group in batch.groups]
        assert len(set(keys)) == len(keys)
        assert sorted(index for group in batch.groups for index in group.images) == list(range(6))
        names = {source for source, _ in keys}
        assert names == ({image_folder.name, "line 1", "z"} if separate else {""})
        for crops, owners, _ in batch.crop_batches(2):
            assert len(crops) == len(owners) <= 2
            assert crops.dtype == torch.float32


def test_chunks():
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(chunks([], 2)) == []


def test_batch_size(image_folder):
    with pytest.raises(ValueError, match=r"BATCH_SIZE must be positive, got 0"):
        ImageLoader(image_folder, geometry=InputGeometry(image_size=8), batch_size=0)
