"""The anomaly-distillation loss (AGSSP, section on AGBP).

Shapes: N images, C channels, h x w cells of a feature map, H x W pixels of an anomaly map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detectron2_agssp.ops import channel_energy

TARGET_RESIZES = ("area", "bilinear")


def resize_target(anomaly_maps: Tensor, height: int, width: int, resize: str = "area") -> Tensor:
    """Brings full maps (N, 1, H, W) to a feature map's size (N, 1, height, width).

    "area" averages all pixels under a cell; "bilinear" samples around its centre, as the released
    code does, and can miss a defect smaller than the stride.

    Raises:
        ValueError: an unknown ``resize``.
    """
    if resize == "area":
        return F.interpolate(anomaly_maps, size=(height, width), mode="area")
    if resize == "bilinear":
        return F.interpolate(
            anomaly_maps, size=(height, width), mode="bilinear", align_corners=False
        )
    raise ValueError(
        f"AGSSP.DISTILL.TARGET_RESIZE is {resize!r}. Choices: {', '.join(TARGET_RESIZES)}."
    )


def distillation_loss(features: Tensor, anomaly_maps: Tensor, resize: str = "area") -> Tensor:
    """Mean over the images of ``||e / |e| - a / |a| ||^2 = 2 - 2 cos(e, a)``.

    e is the energy of the features (sum of squares over channels), a the anomaly map at their
    size, both as vectors over the cells. Every level is resized from the full map. A map of zeros
    has no direction: its image adds the constant 1 and no gradient.

    Args:
        features: (N, C, h, w).
        anomaly_maps: (N, 1, H, W), any H and W, in [0, 1].
        resize: "area" or "bilinear", see :func:`resize_target`.

    Returns:
        A scalar in [0, 2], float32, under autocast too; 0 for an empty batch.

    Raises:
        ValueError: shapes that do not fit, or an unknown ``resize``.
    """
    if anomaly_maps.ndim != 4 or anomaly_maps.shape[1] != 1:
        raise ValueError(f"anomaly_maps must be (N, 1, H, W), got {tuple(anomaly_maps.shape)}.")
    if len(features) != len(anomaly_maps):
        raise ValueError(f"{len(features)} feature maps but {len(anomaly_maps)} anomaly maps.")
    with torch.autocast(features.device.type, enabled=False):
        energy = channel_energy(features)
        if len(features) == 0:
            return energy.sum()
        target = resize_target(anomaly_maps.to(energy.dtype), *features.shape[-2:], resize)
        unit_energy = F.normalize(energy.flatten(1), dim=1)
        unit_target = F.normalize(target.flatten(1), dim=1)
        return (unit_energy - unit_target).square().sum(dim=1).mean()
