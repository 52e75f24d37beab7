"""One geometry for an image and its map."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms import transform as fvcore_transforms
from PIL import Image

from detectron2_agssp.data.aug_input import MapAugInput

HEIGHT, WIDTH = 60, 100
# The blob's centre (x, y): not on any axis of symmetry.
CENTRE = np.array([62.0, 21.0])


def make_input():
    """The same blob in both: bright in the image on black, high in the map on 0."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    distance = ((x - CENTRE[0]) / 6) ** 2 + ((y - CENTRE[1]) / 4) ** 2
    blob = np.exp(-distance / 2).astype(np.float32)
    return MapAugInput(np.repeat((255 * blob).astype(np.uint8)[:, :, None], 3, axis=2), blob)


def assert_coincide(augmented, transform):
    """The blob is in one place in both, and where the transform says."""
    image = augmented.image[:, :, 0].astype(np.float32) / 255
    found = augmented.anomaly_map
    assert found.dtype == np.float32
    assert found.shape == image.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.max() > 0.8, "the blob is inside"
    np.testing.assert_allclose(found, image, atol=0.06)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] + 0.5
    centre = np.array([(x * found).sum(), (y * found).sum()]) / found.sum()
    np.testing.assert_allclose(transform.apply_coords(CENTRE[None].copy())[0], centre, atol=0.6)


def crop(x, y, width, height):
    return T.CropTransform(x, y, width, height)


GEOMETRY = {
    "shrink": T.Resize((45, 80)),
    "grow": T.Resize((90, 130)),
    "change the sides' ratio": T.Resize((100, 60)),
    "shortest edge": T.ResizeShortestEdge([48, 72], sample_style="range"),
    "bicubic": T.ResizeTransform(HEIGHT, WIDTH, 90, 150, Image.BICUBIC),
    "fvcore's scale": fvcore_transforms.ScaleTransform(HEIGHT, WIDTH, 72, 120, "bilinear"),
    "crop": crop(20, 2, 70, 50),
    "crop at 0, 0": crop(0, 0, 95, 55),
    "crop of width only": crop(0, 0, 90, HEIGHT),
    "crop of everything": crop(0, 0, WIDTH, HEIGHT),
    "random crop": T.RandomCrop("absolute", (58, 97)),
    "mirror": T.RandomFlip(1.0),
    "upside down": T.RandomFlip(1.0, horizontal=False, vertical=True),
    "rotate": T.RandomRotation([20, 20], expand=False),
    "rotate and expand": T.RandomRotation([-35, -35]),
    "quarter turn": T.RandomRotation([90, 90]),
    "half turn": T.RandomRotation([180, 180], expand=False),
    "rotate around a place": T.RandomRotation([10, 10], expand=False, center=[[0.6, 0.4]] * 2),
    "pad": T.PadTransform(7, 3, 11, 5),
    "pad by a colour": T.PadTransform(7, 3, 11, 5, pad_value=0, seg_pad_value=255),
    "extent": T.ExtentTransform((10, 5, 90, 55), (50, 80)),
    "extent beyond": T.ExtentTransform((-10, -5, 110, 65), (70, 120)),
    "extent of equal size": T.ExtentTransform((5, 0, 105, 60), (60, 100)),
    "random extent": T.RandomExtent((0.9, 1.1), (0.05, 0.05)),
    "fixed size crop": T.FixedSizeCrop((80, 90), pad_value=0),
    "scale and crop": T.AugmentationList(
        [T.ResizeScale(1.0, 1.2, 90, 140), T.FixedSizeCrop((100, 140), pad_value=0)]
    ),
    "list": T.AugmentationList(
        [
            T.ResizeShortestEdge(66),
            T.RandomRotation([5, 5], expand=False),
            T.CropTransform(3, 0, 100, 60),
            T.RandomFlip(1.0),
            T.RandomBrightness(1.0, 1.0),
            T.RandomApply(T.RandomFlip(1.0, horizontal=False, vertical=True), 1.0),
        ]
    ),
    "list of transforms": T.TransformList(
        [T.HFlipTransform(WIDTH), T.TransformList([crop(0, 0, 80, 60), T.VFlipTransform(60)])]
    ),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_map_move_alike(name):
    np.random.seed(0)  # noqa: NPY002  (Detectron2 draws from it)
    augmented = make_input()
    transforms = T.AugmentationList([GEOMETRY[name]])(augmented)
    assert_coincide(augmented, transforms)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_drawn(seed):
    np.random.seed(seed)  # noqa: NPY002
    augmented = make_input()
    transforms = T.AugmentationList(
        [
            T.RandomFlip(0.5),
            T.RandomFlip(0.5, horizontal=False, vertical=True),
            T.RandomRotation([-15, 15], expand=True),
            T.ResizeShortestEdge([60, 90], sample_style="range"),
            T.RandomCrop("relative_range", (0.95, 0.95)),
        ]
    )(augmented)
    assert_coincide(augmented, transforms)


@pytest.mark.parametrize(
    "augmentation",
    [
        T.RandomBrightness(0.3, 0.4),
        T.RandomContrast(0.3, 0.4),
        T.RandomSaturation(0.3, 0.4),
        T.RandomLighting(50.0),
        T.ColorTransform(lambda image: 255 - image),
        T.PILColorTransform(lambda image: image.rotate(0)),
        T.NoOpTransform(),
    ],
)
def test_colour_leaves_the_map_alone(augmentation):
    augmented, original = make_input(), make_input()
    T.AugmentationList([augmentation])(augmented)
    np.testing.assert_array_equal(augmented.anomaly_map, original.anomaly_map)
    assert augmented.image.shape == original.image.shape


@pytest.mark.parametrize(
    "transform",
    [
        T.PadTransform(5, 5, 5, 5, pad_value=255),
        T.TransformList([T.NoOpTransform(), T.PadTransform(0, 5, 0, 5, pad_value=128)]),
    ],
)
def test_what_is_beyond_the_image_is_no_anomaly(transform):
    augmented = make_input()
    augmented.transform(transform)
    assert augmented.image[0].min() >= 128
    assert augmented.anomaly_map[0].max() == 0
    assert augmented.anomaly_map.max() > 0.8


def test_sizes_must_agree():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(ValueError, match=r"map is \(100, 60\), its image \(60, 100\); resize it"):
        MapAugInput(image, np.zeros((WIDTH, HEIGHT), np.float32))


def test_transform_that_treats_them_differently():
    class ImageOnly(T.NoOpTransform):
        def apply_image(self, image):
            return image[1:] if image.ndim == 3 else image

    with pytest.raises(ValueError, match=r"image \(59, 100\) but the map \(60, 100\)"):
        make_input().transform(ImageOnly())
