"""Two views of an image, as MoCo v3 (Chen et al., ICCV 2021) draws them."""

import math

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform
from torchvision.transforms import v2

from detectron2_agssp.data.aug_input import MapAugInput
from detectron2_agssp.data.mapper_choice import MAPPER_REGISTRY
from detectron2_agssp.data.mappers import AnomalyMapMapper, to_tensor
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.modeling.pretext.moco_v3 import SECOND_VIEW

# (probability of blur, of solarising) of the first and of the second view.
FIRST, SECOND = (1.0, 0.0), (0.1, 0.2)


class RandomResizedCrop(T.Augmentation):
    """A part of the image of random area and aspect ratio, resized to one size.

    Args:
        size: (height, width) in pixels.
        area: (min, max) share of the image's area, in (0, 1].

    Raises:
        ValueError: an area out of range.
    """

    RATIO = 4 / 3  # the sides' ratio is between its inverse and itself

    def __init__(self, size: tuple[int, int], area: tuple[float, float]):
        super().__init__()
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(
                f"AGSSP.INPUT.VIEW_AREA must be (min, max) in (0, 1], got {tuple(area)}."
            )
        self.size, self.area = tuple(size), tuple(area)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        area = height * width * self._rand_range(*self.area)
        ratio = math.exp(self._rand_range(-1, 1) * math.log(self.RATIO))
        # A part that would be longer than the image is as long as it.
        crop_height = min(max(round(math.sqrt(area / ratio)), 1), height)
        crop_width = min(max(round(math.sqrt(area * ratio)), 1), width)
        y = int(self._rand_range(0, height - crop_height + 1))
        x = int(self._rand_range(0, width - crop_width + 1))
        return T.TransformList(
            [
                CropTransform(x, y, crop_width, crop_height, width, height),
                T.ResizeTransform(crop_height, crop_width, *self.size),
            ]
        )


class ViewColors(T.Augmentation):
    """Jitter, grey, blur and solarising, each at random; the geometry stays.

    Args:
        blur, solarize: probabilities.
        image_format: "RGB" or "BGR".
        blur_size: pixels a side of the blur's window, odd; at most the image's.
    """

    def __init__(
        self, blur: float, solarize: float, image_format: str = "BGR", blur_size: int = 23
    ):
        super().__init__()
        self.image_format = image_format
        self.change = v2.Compose(
            [
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(blur_size, sigma=(0.1, 2.0))], p=blur),
                v2.RandomSolarize(threshold=128, p=solarize),
            ]
        )

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return T.ColorTransform(self._changed)

    def _changed(self, image: np.ndarray) -> np.ndarray:
        flip = slice(None, None, -1 if self.image_format == "BGR" else 1)
        rgb = torch.from_numpy(np.ascontiguousarray(image[:, :, flip].transpose(2, 0, 1)))
        changed = self.change(rgb).numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(changed[:, :, flip])


@MAPPER_REGISTRY.register()
class TwoViewMapper(AnomalyMapMapper):
    """For AGBP with MoCo v3: an :class:`AnomalyMapMapper` whose input is one view, its map moved
    along, and ``second_image`` (3, H, W) uint8 another.

    Args:
        augmentations: of the first view, which is distilled.
        second_augmentations: of the other.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: list,
        second_augmentations: list,
        image_format: str = "BGR",
        reader: ImageReader | None = None,
    ):
        super().__init__(augmentations=augmentations, image_format=image_format, reader=reader)
        self.second_augmentations = T.AugmentationList(second_augmentations)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        settings = super().from_config(cfg, is_train)
        if not is_train:
            return {**settings, "second_augmentations": settings["augmentations"]}
        size = cfg.INPUT.CROP.SIZE
        # 23 pixels at the paper's 224; a small view has a smaller window.
        blur_size = min(23, (min(size) - 1) // 2 * 2 + 1)
        first, second = (
            [
                RandomResizedCrop(size, cfg.AGSSP.INPUT.VIEW_AREA),
                T.RandomFlip(),
                ViewColors(blur, solarize, cfg.INPUT.FORMAT, blur_size),
            ]
            for blur, solarize in (FIRST, SECOND)
        )
        return {**settings, "augmentations": first, "second_augmentations": second}

    def __call__(self, dataset_dict: dict) -> dict:
        first = self._load(dataset_dict)
        second = MapAugInput(first.image, first.anomaly_map)
        inputs, anomaly_map = self._augment(dataset_dict, first)
        inputs["anomaly_map"] = to_tensor(anomaly_map[None])
        self.second_augmentations(second)
        inputs[SECOND_VIEW] = to_tensor(second.image.transpose(2, 0, 1))
        return inputs
