"""What every anomaly scorer offers.

Shapes: N images, H x W pixels, h x w cells of the scorer's own grid.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class AnomalyScores(NamedTuple):
    """Raw scores of a batch: the higher, the more anomalous; no fixed range.

    Attributes:
        maps: (N, h, w) float32, one score a cell.
        scores: (N,) float32, one score an image.
    """

    maps: Tensor
    scores: Tensor


class AnomalyScorer(nn.Module):
    """Base class: ``fit`` once on unlabelled images, then call on batches.

    Images are RGB, (N, 3, H, W), float32 in [0, 255]. A scorer keeps what it learned in buffers,
    so that ``state_dict`` is all a map folder has to remember, and is rebuilt by
    ``load_state_dict``.
    """

    # Side in pixels of the square that images are resized to before scoring.
    image_size: int

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    def fit(self, images: Tensor | Iterable[Tensor]) -> "AnomalyScorer":
        """Learns what is normal from unlabelled images.

        Args:
            images: one batch (N, 3, H, W), or an iterable of batches, read once.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> AnomalyScores:
        raise NotImplementedError


def as_batches(images: Tensor | Iterable[Tensor]) -> Iterable[Tensor]:
    """One batch or an iterable of batches, as an iterable of checked (N, 3, H, W) batches."""
    for batch in [images] if isinstance(images, Tensor) else images:
        check_images(batch)
        yield batch


def check_images(images: Tensor) -> None:
    """Raises ValueError unless ``images`` is (N, 3, H, W) and floating point."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            "Images must be RGB, (N, 3, H, W), float32 in [0, 255]; "
            f"got shape {tuple(images.shape)}, {images.dtype}."
        )


def resolve_device(name: str) -> torch.device:
    """The device that ``name`` asks for; "" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: CUDA is asked for and there is none, or ``name`` is no torch device.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"AGSSP.SCORER.DEVICE {name!r} is not a torch device.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"AGSSP.SCORER.DEVICE is {name!r}, but torch {torch.__version__} sees no CUDA device; "
            "set it to '' (automatic) or 'cpu'."
        )
    return device
