"""How an image of any size becomes what a scorer takes, and maps of crops one map again.

Shapes: H x W pixels of the image; T crops of S_h x S_w pixels; gh x gw cells of the whole map;
h x w cells of a crop's map; s pixels a cell.
"""

from dataclasses import dataclass

import cv2
import numpy as np

RESIZE_MODES = ("square", "aspect", "tile")


@dataclass(frozen=True)
class Prepared:
    """An image as crops.

    Attributes:
        crops: (T, 3, S_h, S_w) uint8, RGB.
        origins: of each crop, (row, column) in cells of the whole map.
        grid: (gh, gw); None where one crop is the whole image and its map's grid the scorer's.
    """

    crops: np.ndarray
    origins: tuple[tuple[int, int], ...] = ((0, 0),)
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class InputGeometry:
    """Resizing, or tiling, of images before scoring.

    Attributes:
        mode: "square": image_size x image_size; "aspect": the image's own aspect ratio, with as
            many pixels as that square, sides rounded to multiples of ``divisor``; "tile": square
            crops of image_size pixels that overlap, of the image scaled by ``scale``.
        image_size: pixels.
        divisor: sides of what the scorer gets are multiples of it (modes "aspect" and "tile").
        stride: pixels a cell of the scorer's maps.
        overlap: of neighbouring tiles, as a share of their side, in [0, 0.5].
        scale: of the image before tiling; images smaller than a tile are enlarged to one.
    """

    mode: str = "square"
    image_size: int = 256
    divisor: int = 1
    stride: int = 1
    overlap: float = 0.25
    scale: float = 1.0

    def __post_init__(self):
        if self.mode not in RESIZE_MODES:
            raise ValueError(
                f"AGSSP.SCORER.RESIZE is {self.mode!r}. Choices: {', '.join(RESIZE_MODES)}."
            )
        if self.image_size < 1:
            raise ValueError(f"AGSSP.SCORER.IMAGE_SIZE must be positive, got {self.image_size}.")
        if self.mode != "tile":
            return
        if not 0 <= self.overlap <= 0.5 or not self.scale > 0:
            raise ValueError(
                "AGSSP.SCORER needs TILE_OVERLAP in [0, 0.5] and a positive TILE_SCALE, got "
                f"{self.overlap} and {self.scale}."
            )
        if self.image_size % self.divisor or self.image_size % self.stride:
            raise ValueError(
                f"AGSSP.SCORER.IMAGE_SIZE, {self.image_size}, is the side of a tile and must be a "
                f"multiple of {max(self.divisor, self.stride)} for this scorer."
            )

    def prepare(self, image: np.ndarray) -> Prepared:
        """(H, W, 3) uint8 -> crops."""
        size = self.image_size
        if self.mode == "square":
            return Prepared(_channels_first(resize(image, size, size))[None])
        height, width = image.shape[:2]
        if self.mode == "aspect":
            factor = size / (height * width) ** 0.5
            sides = (self._multiple(height * factor), self._multiple(width * factor))
            return Prepared(_channels_first(resize(image, *sides))[None])
        return self._tiles(image)

    def _multiple(self, side: float) -> int:
        return max(1, round(side / self.divisor)) * self.divisor

    def _tiles(self, image: np.ndarray) -> Prepared:
        height, width = image.shape[:2]
        stride, cells = self.stride, self.image_size // self.stride
        factor = max(self.scale, self.image_size / min(height, width))
        # The whole image is stretched, by less than half a cell, to whole cells: no padding, and
        # the map covers exactly the image.
        grid = tuple(max(cells, round(side * factor / stride)) for side in (height, width))
        scaled = _channels_first(resize(image, grid[0] * stride, grid[1] * stride))
        rows, columns = (tile_origins(side, cells, self.overlap) for side in grid)
        origins = tuple((row, column) for row in rows for column in columns)
        side = self.image_size
        crops = np.stack(
            [
                scaled[:, row * stride : row * stride + side, column * stride :][:, :, :side]
                for row, column in origins
            ]
        )
        return Prepared(crops, origins, grid)


def tile_origins(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles of ``tile`` cells begin on ``length`` cells: the first at 0, the last ends at
    the end, evenly spread between, neighbours overlapping by at least the share ``overlap``."""
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def assemble(maps: np.ndarray, origins, grid: tuple[int, int]) -> np.ndarray:
    """Maps of crops (T, ..., h, w) -> (..., gh, gw): where crops overlap, the mean weighted by the
    distance to the crop's border, so that there is no seam."""
    height, width = maps.shape[-2:]
    weight = np.minimum.outer(_ramp(height), _ramp(width))
    total = np.zeros((*maps.shape[1:-2], *grid), np.float32)
    weights = np.zeros(grid, np.float32)
    for anomaly_map, (row, column) in zip(maps, origins, strict=True):
        place = (slice(row, row + height), slice(column, column + width))
        total[(..., *place)] += anomaly_map * weight
        weights[place] += weight
    return total / weights


def _ramp(length: int) -> np.ndarray:
    """Distance of each cell's centre to the nearer end, in cells."""
    positions = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(positions, length - positions)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3): averaging where it shrinks, bilinear where it grows.

    Side by side: of a long, narrow strip one side shrinks and the other grows.
    """
    within = (min(image.shape[1], width), min(image.shape[0], height))
    if within != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, within, interpolation=cv2.INTER_AREA)
    if within != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))
