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
    """Base class: ``fit`` once, then call on batches.

    Images are RGB, (N, 3, H, W), float32 in [0, 255]. A scorer keeps what it learned in its own
    buffers: those are all that a map folder has to remember (:meth:`learned_state`).
    """

    # What fit() wants: "unlabelled" images, "normal" ones, or nothing.
    fits_on: str | None = "unlabelled"
    # Images are compared within their source: fit() takes {source: batches} too, and the source of
    # a batch matters.
    by_source: bool = False
    # Side in pixels of the square that images are resized to before scoring.
    image_size: int
    # Pixels a cell of the maps, and what images' sides must be multiples of; for RESIZE "aspect"
    # and "tile".
    stride: int = 1
    size_divisor: int = 1

    def take_grid(self, features: nn.Module) -> None:
        """The scorer's grid is its patch features'."""
        self.stride = getattr(features, "stride", 1)
        self.size_divisor = getattr(features, "size_divisor", 1)

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    def fit(self, images: Tensor | Iterable[Tensor]) -> "AnomalyScorer":
        """Learns what is normal.

        Args:
            images: one batch (N, 3, H, W), or an iterable of batches, read once.
        """
        raise NotImplementedError

    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """Scores a batch of images (N, 3, H, W); all of one ``source``, which only scorers that are
        ``by_source`` are told."""
        raise NotImplementedError

    def score(self, images: Tensor, source: str) -> AnomalyScores:
        """Calls the scorer, which is told the source only if it is ``by_source``."""
        return self(images, source) if self.by_source else self(images)

    def learned_state(self) -> dict[str, Tensor]:
        """What fit() learned, without the network's weights."""
        return dict(self.named_buffers(recurse=False))

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Takes over a :meth:`learned_state`, whatever the sizes.

        Raises:
            ValueError: it is another scorer's.
        """
        own = set(self.learned_state())
        if set(state) != own:
            raise ValueError(f"The scorer's state has {sorted(state)}, expected {sorted(own)}.")
        device = self.device
        for name, tensor in state.items():
            setattr(self, name, tensor.to(device))


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


def check_finite(features: Tensor, what: str) -> None:
    """Raises ValueError unless all ``features``, called ``what`` in the plural, are finite."""
    if not features.isfinite().all():
        raise ValueError(
            f"{what} are not finite: check the network's weights, and whether "
            "AGSSP.SCORER.PRECISION fp16 overflows where fp32 or bf16 does not."
        )


def strongest_cells(maps: Tensor) -> Tensor:
    """(N, h, w) -> (N,), each map's maximum; also of no maps."""
    return maps.flatten(1).amax(dim=1) if len(maps) else maps.new_zeros(0)


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
