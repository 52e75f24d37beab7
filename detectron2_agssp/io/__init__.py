"""Files of every kind: images, COCO json, and atomic writes. Imports nothing of the other rooms."""

from detectron2_agssp.io.images import ImageReader, list_images, read_image

__all__ = ["ImageReader", "list_images", "read_image"]
