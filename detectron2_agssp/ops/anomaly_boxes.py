"""Boxes of anomaly maps: the external components above a threshold (AGSSP, section on AGDP).

N maps of H x W pixels, K = ``max_boxes``.
"""

import operator
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from detectron2_agssp.ops import native


def anomaly_boxes(
    maps: Tensor,
    thresholds: Tensor,
    min_areas: Tensor,
    max_boxes: int,
    *,
    size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts the best boxes from each map; no box is suppressed for overlapping another.

    Each map is brought to ``size``; pixels above the threshold are foreground. Holes (background
    not 4-connected to the border) are filled, and the 8-connected components of what remains are
    the external ones. A component's contour area is the sum over all 2 x 2 windows of 1 where it
    sets four pixels and 1/2 where it sets three. The score is the map's maximum inside the box.

    All is computed in float32, whatever the inputs. NaN is never foreground and enters no maximum;
    infinities are values like others, but what a resize mixes with one becomes infinite or NaN, and
    with NaN, NaN. A NaN threshold or area gives no box. There are no gradients.

    Args:
        maps: (N, H, W) floating point, in any unit; H or W may be 0.
        thresholds: (N,) in the maps' unit; a pixel equal to it is left out.
        min_areas: (N,) contour areas in pixels of the resized map; smaller components are dropped.
        max_boxes: boxes to keep of a map, at least 1.
        size: (height, width) to resize to, bilinearly with half-pixel centres; None leaves them.

    Returns:
        boxes (N, K, 4) float32, XYXY, absolute pixels, in order of falling score (then from top to
        bottom, then from left to right); scores (N, K) float32; counts (N,) int64, the rows of each
        map that are boxes. The rows after them are zeros. On the maps' device.

    Raises:
        ValueError: a shape, dtype or device that does not fit, or a size or number below 1.
    """
    if maps.ndim != 3 or not maps.is_floating_point():
        raise ValueError(
            "anomaly_boxes needs floating-point maps (N, H, W), got "
            f"{tuple(maps.shape)}, {maps.dtype}."
        )
    for name, values in (("thresholds", thresholds), ("min_areas", min_areas)):
        if tuple(values.shape) != (len(maps),) or values.is_complex():
            raise ValueError(
                f"anomaly_boxes needs {name} ({len(maps)},), one of each map, got "
                f"{tuple(values.shape)}, {values.dtype}."
            )
        if values.device != maps.device:
            raise ValueError(
                f"anomaly_boxes needs all on one device, got maps on {maps.device} and {name} on "
                f"{values.device}."
            )
    max_boxes = _positive(max_boxes, "max_boxes")
    if size is not None:
        if len(size) != 2:
            raise ValueError(f"anomaly_boxes needs a size of (height, width), got {size}.")
        size = [_positive(side, "both sides of size") for side in size]
    maps = maps.detach().to(torch.float32)
    thresholds = thresholds.detach().to(torch.float32)
    min_areas = min_areas.detach().to(torch.float64)
    if native.use_native(NATIVE_DEVICES, maps.device):
        return torch.ops.detectron2_agssp.anomaly_boxes(
            maps, thresholds, min_areas, max_boxes, size=size
        )
    return reference(maps, thresholds, min_areas, max_boxes, size)


def _positive(value: int, name: str) -> int:
    # A traced integer is neither an int nor to be made one: that would fix it.
    if not isinstance(value, torch.SymInt):
        value = operator.index(value)
    if value < 1:
        raise ValueError(f"anomaly_boxes needs {name} to be at least 1, got {value}.")
    return value


def reference(
    maps: Tensor,
    thresholds: Tensor,
    min_areas: Tensor,
    max_boxes: int,
    size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by OpenCV's contours, on the CPU; the results return to the maps' device."""
    boxes = torch.zeros(len(maps), max_boxes, 4, device="cpu")
    scores = torch.zeros(len(maps), max_boxes, device="cpu")
    counts = torch.zeros(len(maps), dtype=torch.int64, device="cpu")
    if maps.numel():
        found = map(
            _boxes_of_map,
            maps.cpu().numpy(),
            thresholds.cpu().numpy(),
            min_areas.cpu().numpy(),
            [size] * len(maps),
        )
        for index, (corners, maxima) in enumerate(found):
            count = min(len(corners), max_boxes)
            boxes[index, :count] = torch.from_numpy(corners[:count])
            scores[index, :count] = torch.from_numpy(maxima[:count])
            counts[index] = count
    return boxes.to(maps.device), scores.to(maps.device), counts.to(maps.device)


def _boxes_of_map(
    anomaly_map: np.ndarray, threshold: np.float32, min_area: np.float64, size: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    full = anomaly_map if size is None else resize_bilinear(anomaly_map, *size)
    foreground = (full > threshold).astype(np.uint8)
    contours, _ = cv2.findContours(foreground, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes, scores = [], []
    for contour in contours:
        if cv2.contourArea(contour) >= min_area:
            x, y, width, height = cv2.boundingRect(contour)
            boxes.append((x, y, x + width, y + height))
            scores.append(np.fmax.reduce(full[y : y + height, x : x + width], axis=None))
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    maxima = np.array(scores, np.float32) + np.float32(0)  # -0 becomes 0
    order = np.lexsort((*corners.T[[2, 3, 0, 1]], -maxima))
    return corners[order], maxima[order]


def resize_bilinear(anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) float32 -> (height, width) float32; the same bits as the compiled operator's."""
    if anomaly_map.shape == (height, width):
        return anomaly_map
    low, high, weights = _taps(anomaly_map.shape[1], width)
    # A difference of infinities is NaN, as documented, and no reason for a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = anomaly_map[:, low], anomaly_map[:, high]
        rows = left + weights * (right - left)
        low, high, weights = _taps(anomaly_map.shape[0], height)
        above = rows[low]
        result = rows[high]
        result -= above
        result *= weights[:, None]
        result += above
    return result


def _taps(size: int, resized: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each of ``resized`` positions reads: low + weight * (high - low)."""
    numerator = (2 * np.arange(resized, dtype=np.int64) + 1) * size - resized
    inside = (numerator > 0) & (numerator < (size - 1) * 2 * resized)
    low = np.clip(numerator // (2 * resized), 0, size - 1)
    weights = np.where(inside, numerator % (2 * resized) / (2.0 * resized), 0).astype(np.float32)
    return low, low + (inside & (numerator % (2 * resized) > 0)), weights


def _register() -> None:
    @torch.library.register_fake("detectron2_agssp::anomaly_boxes")
    def _(maps, thresholds, min_areas, max_boxes, *, size=None):
        num_maps = maps.shape[0]
        return (
            maps.new_empty((num_maps, max_boxes, 4)),
            maps.new_empty((num_maps, max_boxes)),
            maps.new_empty((num_maps,), dtype=torch.int64),
        )


NATIVE_DEVICES = native.register_native("anomaly_boxes", _register)
