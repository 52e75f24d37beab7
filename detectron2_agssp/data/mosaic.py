"""Mosaic: four images in one (YOLOv4, Bochkovskiy et al., 2020), of labelled images or of maps.

Each of the four keeps its scale; around a random centre each quarter shows a random window of its
image. The other three images come from the last ones that the same loader process has seen.
"""

import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor

# Images in memory per loader process.
POOL_SIZE = 32
# Of the sides, for the centre.
CENTRE = (0.25, 0.75)
# Share of its area that a box must show, to be kept.
VISIBLE = 0.25

# (what belongs to an image, y, x, height, width of a window) -> its instances, in the window.
Cut = Callable[[Any, int, int, int, int], Instances]


class Mosaic:
    """Makes mosaics of what passes through it.

    Args:
        cut: the instances of a window.
        probability: of a mosaic, in [0, 1].
        num_calls: after so many, none are made.

    Raises:
        ValueError: ``probability`` out of its range.
    """

    def __init__(self, cut: Cut, *, probability: float, num_calls: float = float("inf")):
        if not 0 <= probability <= 1:
            raise ValueError(f"AGSSP.INPUT.MOSAIC must be in [0, 1], got {probability}.")
        self.cut = cut
        self.probability = probability
        self.num_calls = num_calls
        self.calls = 0
        self.pool: deque[tuple[Tensor, Any]] = deque(maxlen=POOL_SIZE)

    def __call__(self, image: Tensor, companion: Any) -> tuple[Tensor, Instances]:
        """An image (3, H, W) and its instances; a mosaic of the same size, or the image itself.

        Args:
            companion: what ``cut`` gets the image's instances from.
        """
        height, width = image.shape[-2:]
        self.calls += 1
        is_mosaic = 0 < self.probability > random.random() and self.calls <= self.num_calls
        own = (image, companion)
        if not is_mosaic or len(self.pool) < 3:
            if self.probability:
                self.pool.append(own)
            return image, self.cut(companion, 0, 0, height, width)
        others = random.sample(self.pool, 3)
        self.pool.append(own)
        centre_y, centre_x = (int(side * random.uniform(*CENTRE)) for side in (height, width))
        mosaic, instances = torch.empty_like(image), []
        bands = ((0, centre_y), (centre_y, height)), ((0, centre_x), (centre_x, width))
        for (tile, of_tile), ((top, bottom), (left, right)) in zip(
            [own, *others], itertools.product(*bands), strict=True
        ):
            rows = min(bottom - top, tile.shape[1])
            columns = min(right - left, tile.shape[2])
            y = random.randrange(tile.shape[1] - rows + 1)
            x = random.randrange(tile.shape[2] - columns + 1)
            # Where an image is smaller than its quarter: its mean colour.
            mean = tile.float().mean(dim=(1, 2)).to(tile.dtype)
            mosaic[:, top:bottom, left:right] = mean[:, None, None]
            window = tile[:, y : y + rows, x : x + columns]
            mosaic[:, top : top + rows, left : left + columns] = window
            instances.append(
                _moved(self.cut(of_tile, y, x, rows, columns), top, left, (height, width))
            )
        return mosaic, Instances.cat(instances)


def mosaic_settings(cfg: CfgNode, is_train: bool) -> dict[str, float]:
    """``mosaic``, the probability, and ``mosaic_calls``, of a mapper, by ``AGSSP.INPUT``: calls of
    each of the loader's processes.

    Raises:
        ValueError: masks, which are not moved, or a share out of its range.
    """
    settings, until = cfg.AGSSP.INPUT, cfg.AGSSP.INPUT.MOSAIC_UNTIL
    if not is_train or not settings.MOSAIC:
        return {}
    if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
        raise ValueError("AGSSP.INPUT.MOSAIC moves boxes only: set it to 0.0, or MASK_ON to False.")
    if not 0 < until <= 1:
        raise ValueError(f"AGSSP.INPUT.MOSAIC_UNTIL must be in (0, 1], got {until}.")
    images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    processes = comm.get_world_size() * max(cfg.DATALOADER.NUM_WORKERS, 1)
    return {"mosaic": settings.MOSAIC, "mosaic_calls": until * images / processes}


def cut_instances(instances: Instances, y: int, x: int, height: int, width: int) -> Instances:
    """The boxes of labelled instances in a window: clipped, and those that show too little of
    themselves dropped; the whole image's are left as they are."""
    if (height, width) == instances.image_size:
        return instances
    boxes = Boxes(instances.gt_boxes.tensor - torch.tensor([x, y, x, y]))
    areas = boxes.area()
    boxes.clip((height, width))
    window = Instances((height, width), **instances.get_fields())
    window.gt_boxes = boxes
    return window[boxes.area() > VISIBLE * areas]


def _moved(instances: Instances, y: int, x: int, image_size: tuple[int, int]) -> Instances:
    moved = Instances(image_size, **instances.get_fields())
    moved.gt_boxes = Boxes(instances.gt_boxes.tensor + torch.tensor([x, y, x, y]))
    return moved
