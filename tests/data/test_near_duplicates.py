"""Images that are in train and, nearly, in test."""

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.data.near_duplicates import find_near_duplicates


def texture(seed: int, height: int = 90, width: int = 140) -> np.ndarray:
    """(H, W) float in about [60, 180], not square: noise of many scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for cells in (6, 12, 24):
        noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    return 120 + 20 * total


def save(path, pixels) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return str(path)


def test_the_same_file_and_another_exposure_are_found_and_other_surfaces_are_not(tmp_path):
    references = [save(tmp_path / "test" / f"{seed}.png", texture(seed)) for seed in range(4)]
    copy = save(tmp_path / "train" / "copy.png", texture(2))
    ramp = np.linspace(-40, 40, 140)
    darker = save(tmp_path / "train" / "darker.png", 0.6 * texture(1) + ramp)
    noise = np.random.default_rng(9).normal(0, 4, (90, 140))
    resized = Image.fromarray((texture(3) + noise).clip(0, 255).astype(np.uint8)).resize((133, 95))
    again = save(tmp_path / "train" / "again.png", np.asarray(resized))
    others = [save(tmp_path / "train" / f"{seed}.png", texture(seed)) for seed in range(10, 20)]
    found = find_near_duplicates([copy, darker, again, *others], references, progress=False)
    assert {image: reference for image, (reference, _) in found.items()} == {
        copy: references[2],
        darker: references[1],
        again: references[3],
    }
    assert found[copy][1] == 1.0
    assert all(0.9 <= similarity <= 1 for _, similarity in found.values())


def test_flat_images_are_the_same_only_in_their_bytes(tmp_path):
    black = save(tmp_path / "test" / "black.png", np.zeros((40, 60)))
    grey = save(tmp_path / "train" / "grey.png", np.full((40, 60), 90.0))
    twin = save(tmp_path / "train" / "twin.png", np.zeros((40, 60)))
    assert find_near_duplicates([grey, twin], [black], progress=False) == {twin: (black, 1.0)}


def test_none_and_one(tmp_path):
    image = save(tmp_path / "a.png", texture(0))
    assert find_near_duplicates([], [image], progress=False) == {}
    assert find_near_duplicates([image], [], progress=False) == {}


@pytest.mark.parametrize("similarity", [0, 1.1, float("nan")])
def test_a_similarity_out_of_range_is_refused(similarity):
    with pytest.raises(ValueError, match=r"similarity must be in \(0, 1\]"):
        find_near_duplicates(["a"], ["b"], similarity)
