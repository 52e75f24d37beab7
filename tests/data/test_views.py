"""Two views of an image: geometry moves the map too, colours do not; sizes, ranges, errors."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng

from detectron2_agssp.data import build_mapper
from detectron2_agssp.data.aug_input import MapAugInput
from detectron2_agssp.data.views import RandomResizedCrop, ViewColors
from tests.conftest import make_surface


@pytest.fixture
def sample(write_maps, image_folder, tmp_path):
    """The dict of an image of 48 x 66 whose map is its left half."""
    name = "line 1/a.png"
    anomaly_map = np.kron([[1.0, 0.0]], np.ones((4, 4)))
    root = write_maps(tmp_path / "maps", {name: anomaly_map}, {name: (48, 66)})
    return {
        "file_name": str(image_folder / name),
        "map_file": str(next(root.glob("maps/**/*.npy"))),
        "height": 48,
        "width": 66,
        "source": "line 1",
    }


def make_mapper(is_train=True, **keys):
    cfg = get_cfg()
    cfg.AGSSP.MAPPER = "TwoViewMapper"
    cfg.INPUT.CROP.SIZE = [32, 40]
    for key, value in keys.items():
        cfg.AGSSP.INPUT[key] = value
    return build_mapper(cfg, is_train)


def test_two_views_of_one_size(sample):
    seed_all_rng(0)
    inputs = make_mapper()(sample)
    assert inputs["image"].shape == inputs["second_image"].shape == (3, 32, 40)
    assert inputs["image"].dtype == inputs["second_image"].dtype == torch.uint8
    assert inputs["anomaly_map"].shape == (1, 32, 40)
    assert 0 <= inputs["anomaly_map"].min() <= inputs["anomaly_map"].max() <= 1
    assert inputs["source"] == "line 1"
    assert not torch.equal(inputs["image"], inputs["second_image"])


def test_the_first_view_s_map_moves_with_it():
    """An image that is its own map stays so."""
    seed_all_rng(0)
    values = np.linspace(0, 255, 60 * 80).reshape(60, 80).astype(np.uint8)
    image = np.repeat(values[:, :, None], 3, axis=2)
    geometry = T.AugmentationList([RandomResizedCrop((32, 40), (0.2, 1.0)), T.RandomFlip()])
    for _ in range(20):
        augmented = MapAugInput(image, values.astype(np.float32) / 255)
        geometry(augmented)
        difference = np.abs(augmented.image[:, :, 0] / 255 - augmented.anomaly_map)
        assert difference.max() < 0.02


def test_the_part_has_the_area_that_was_asked_for():
    seed_all_rng(0)
    image = make_surface(90, 60)
    shares = []
    for _ in range(50):
        crop, resize = RandomResizedCrop((8, 8), (0.2, 0.5)).get_transform(image).transforms
        shares.append(crop.w * crop.h / (90 * 60))
        assert 0 <= crop.x0 <= 60 - crop.w
        assert 0 <= crop.y0 <= 90 - crop.h
        assert (resize.new_h, resize.new_w) == (8, 8)
    assert 0.19 <= min(shares) < 0.3
    assert 0.4 < max(shares) <= 0.51


def test_one_pixel():
    crop = RandomResizedCrop((4, 6), (0.2, 1.0))
    image = np.full((1, 1, 3), 9, np.uint8)
    assert crop.get_transform(image).apply_image(image).shape == (4, 6, 3)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_colours(image_format):
    seed_all_rng(0)
    image = make_surface(30, 40)
    image[..., 0] //= 2
    colors = ViewColors(blur=0.0, solarize=0.0, image_format=image_format, blur_size=5)
    seen = [colors.get_transform(image).apply_image(image) for _ in range(20)]
    assert all(made.shape == image.shape and made.dtype == np.uint8 for made in seen)
    grey = [np.ptp(made.astype(int), axis=2).max() <= 1 for made in seen]
    assert 0 < sum(grey) < 15, "some, not most, are grey"
    assert sum(not np.array_equal(made, image) for made in seen) > 10


@pytest.mark.parametrize(("blur", "solarize"), [(1.0, 0.0), (0.0, 1.0)])
def test_blur_and_solarising(blur, solarize):
    seed_all_rng(0)
    rng = np.random.default_rng(0)
    image = rng.integers(100, 250, (40, 50, 3), dtype=np.uint8)
    colors = ViewColors(blur=blur, solarize=solarize, blur_size=9)
    seen = [colors.get_transform(image).apply_image(image).astype(int) for _ in range(8)]
    if blur:
        roughness = np.abs(np.diff(image.astype(int), axis=0)).mean()
        assert min(np.abs(np.diff(made, axis=0)).mean() for made in seen) < roughness / 2
    else:
        assert all((made <= 128).all() for made in seen)


def test_in_testing_the_image_is_only_resized(sample):
    mapper = make_mapper(is_train=False)
    first, second = mapper(sample), mapper(sample)
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"], first["second_image"])


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_an_area_out_of_range(area):
    with pytest.raises(ValueError, match=r"VIEW_AREA must be \(min, max\) in \(0, 1\], got"):
        make_mapper(VIEW_AREA=area)
