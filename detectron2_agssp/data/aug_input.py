"""Augmenting an image together with its anomaly map."""

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import PadTransform, Transform, TransformList


class MapAugInput(T.AugInput):
    """Detectron2's augmentation input with a float map beside the image.

    Whatever moves pixels (resize, crop, flip, rotation, ...) moves the map too, by its own
    interpolation; whatever changes colours leaves it alone. So any Detectron2 augmentation serves.

    Args:
        image: (H, W, 3) uint8.
        anomaly_map: (H, W) float32 in [0, 1], at the image's size.
    """

    def __init__(self, image: np.ndarray, anomaly_map: np.ndarray):
        super().__init__(image)
        if anomaly_map.shape != image.shape[:2]:
            raise ValueError(
                f"The map is {anomaly_map.shape}, its image {image.shape[:2]}; resize it first."
            )
        self.anomaly_map = anomaly_map

    def transform(self, tfm: Transform) -> None:
        """Applies ``tfm`` in place."""
        for part in tfm.transforms if isinstance(tfm, TransformList) else [tfm]:
            before = self.image.shape[:2]
            super().transform(part)
            if self.image.shape[:2] != before or _moves_points(part, before):
                self.anomaly_map = _move_map(part, self.anomaly_map)
        if self.anomaly_map.shape != self.image.shape[:2]:
            raise ValueError(
                f"{tfm} made the image {self.image.shape[:2]} but the map {self.anomaly_map.shape}."
            )


def _move_map(tfm: Transform, anomaly_map: np.ndarray) -> np.ndarray:
    """Nothing is known of what is beyond the image: no anomaly, whatever colour the image gets."""
    if isinstance(tfm, PadTransform):
        return np.pad(anomaly_map, ((tfm.y0, tfm.y1), (tfm.x0, tfm.x1)))
    # Bicubic interpolation leaves the range.
    return tfm.apply_image(anomaly_map).clip(0, 1)


def _moves_points(tfm: Transform, size: tuple[int, int]) -> bool:
    height, width = size
    points = np.array([[0, 0], [width, 0], [0, height], [0.3 * width, 0.6 * height]], np.float64)
    return not np.allclose(tfm.apply_coords(points.copy()), points)
