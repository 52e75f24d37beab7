"""Augmenting an image together with its anomaly map."""

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import PadTransform, Transform, TransformList


class MapAugInput(T.AugInput):
    """Detectron2's augmentation input with a float map beside the image.

    Whatever moves pixels (resize, crop, flip, rotation, ...) moves the map too, by bilinear
    interpolation; whatever changes colours leaves it alone. So any Detectron2 augmentation serves.

    Args:
        image: (H, W, 3) uint8.
        anomaly_map: (H, W) float32, at the image's size.
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
            if isinstance(part, PadTransform):
                # Nothing is known of the padding: no anomaly, whatever colour the image gets.
                padding = ((part.y0, part.y1), (part.x0, part.x1))
                self.anomaly_map = np.pad(self.anomaly_map, padding)
            elif self.image.shape[:2] != before or _moves_points(part, before):
                self.anomaly_map = part.apply_image(self.anomaly_map)
        if self.anomaly_map.shape != self.image.shape[:2]:
            raise ValueError(
                f"{tfm} made the image {self.image.shape[:2]} but the map {self.anomaly_map.shape}."
            )


def _moves_points(tfm: Transform, size: tuple[int, int]) -> bool:
    height, width = size
    points = np.array([[0, 0], [width, 0], [0, height], [0.3 * width, 0.6 * height]], np.float64)
    return not np.allclose(tfm.apply_coords(points.copy()), points)
