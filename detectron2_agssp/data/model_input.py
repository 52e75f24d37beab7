"""What a detector takes at test time."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T


def model_input(cfg: CfgNode, image: np.ndarray) -> dict:
    """What the config's model takes at test time.

    Args:
        image: (H, W, 3) uint8 in [0, 255], RGB.

    Returns:
        ``image`` (3, h, w) uint8 in the channel order of ``cfg.INPUT.FORMAT``, resized by
        ``cfg.INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``; ``height`` and ``width`` of the original,
        pixels.
    """
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    ordered = image if cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
    resized = resize.get_transform(ordered).apply_image(np.ascontiguousarray(ordered))
    tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}
