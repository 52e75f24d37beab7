"""A picture of an image's detections."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detectron2_agssp.inference.detector import Detections
from detectron2_agssp.io.files import atomic_write
from detectron2_agssp.visualization import draw_boxes

# Of the longer side, pixels: no screen shows more, and no viewer fails.
_MAX_SIDE = 4096
_QUALITY = 90


def write_picture(
    path: Path, image: np.ndarray, found: Detections, classes: Sequence[str], temporary_root: Path
) -> None:
    """Writes the image (H, W, 3) RGB with boxes, classes and scores as JPEG, atomically."""
    boxes = found["boxes"].numpy()
    scale = _MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        boxes = boxes * (np.array([width, height] * 2) / np.tile(image.shape[1::-1], 2))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    pairs = zip(found["classes"].tolist(), found["scores"].tolist(), strict=True)
    labels = [f"{classes[kind]} {score:.2f}" for kind, score in pairs]
    drawn = draw_boxes(image, boxes, labels)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, encoded = cv2.imencode(".jpg", drawn[:, :, ::-1], options)
    with atomic_write(path, "wb", temporary_root=temporary_root) as file:
        file.write(encoded.tobytes())
