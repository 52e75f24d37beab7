"""What every anomaly scorer offers.

Shapes: N images, H x W pixels, h x w cells of the scorer's own grid.
"""

from collections.abc import Callable, Iterable
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


class FitStage(NamedTuple):
    """A part of a scorer's fitting that sees its images in a pass of its own.

    Attributes:
        sample: one of :data:`FIT_SAMPLES`.
        fit: called with what ``sample`` stands for; or, with ``by_source``, with an iterable of
            pairs of a source and what ``sample`` stands for among its images alone. The first
            pair's source is "", and its sample of all images.
        by_source: see ``fit``.
    """

    sample: str
    fit: Callable
    by_source: bool = False


FIT_SAMPLES = ("unlabeled", "normal", "per_source", "none")


class AnomalyScorer(nn.Module):
    """Base class of scorers: ``fit`` once, then call on batches.

    To write one, subclass it, say in ``fit_sample`` what it learns from, and register a function
    from a config to it. This one asks how far a cell is from the folder's mean brightness::

        @ANOMALY_SCORER_REGISTRY.register()
        def brightness(cfg):
            return BrightnessScorer()


        class BrightnessScorer(AnomalyScorer):
            fit_sample = "unlabeled"
            image_size = 256

            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.zeros(()))

            def fit(self, images):
                self.mean.fill_(torch.cat([b.mean((1, 2, 3)) for b in as_batches(images)]).mean())
                return self

            def forward(self, images):
                cells = F.avg_pool2d(images.to(self.device).mean(dim=1), 16)
                maps = (cells - self.mean).abs()
                return AnomalyScores(maps, strongest_cells(maps))

    With the module imported beside ``detectron2_agssp``, ``AGSSP.SCORER.NAME brightness`` makes map
    folders of it. Images are RGB, (N, 3, H, W), float32 in [0, 255]; the maps' grid is the
    scorer's own, finer than the image or not. Everything that fit() learns is kept in buffers of
    the scorer itself, or is all of the parts that ``learned_parts`` names: that is what a map
    folder remembers (:meth:`learned_state`), and calling it again after
    :meth:`load_learned_state` must give the same maps. An image must get the same map, rounding
    apart, in whichever batch it comes.

    Attributes:
        fit_sample: what fit() is given of a folder. "unlabeled": batches of all its images, or of
            a sample (``AGSSP.SCORER.FIT_IMAGES``). "normal": batches of the images that
            ``AGSSP.SCORER.NORMAL_IMAGES`` and ``NORMAL_SAMPLE`` name, and of ``CALM_WINDOWS``.
            "per_source": a dict from source to batches, and each call is told the batch's source.
            "none": it is not called.
        images_per_source: with "per_source", images of each source that fit() is given at most.
        image_size: side in pixels of the square that images are resized to before scoring.
        stride: pixels a cell of the maps; for ``RESIZE`` "aspect" and "tile".
        size_divisor: what images' sides must be multiples of; likewise.
        learned_parts: names of modules in the scorer that fit() learns as a whole; of those that
            are scorers themselves, what these learned.
        noise: differences that mean nothing (rounding), as a share of the larger of 1 and the
            largest raw score; to be set where scores are far smaller than 1.
    """

    fit_sample: str = "unlabeled"
    images_per_source: int = 0
    image_size: int
    stride: int = 1
    size_divisor: int = 1
    learned_parts: tuple[str, ...] = ()
    noise: float = 1e-5

    def __init__(self):
        super().__init__()
        # Goes where the scorer goes: also one without tensors of its own has a device.
        self.register_buffer("_place", torch.empty(0), persistent=False)

    def take_grid(self, features: nn.Module) -> None:
        """The scorer's grid is its patch features'."""
        self.stride = getattr(features, "stride", 1)
        self.size_divisor = getattr(features, "size_divisor", 1)

    @property
    def device(self) -> torch.device:
        return self._place.device

    @property
    def told_source(self) -> bool:
        """Whether each call is told its batch's source; of scorers of "per_source"."""
        return self.fit_sample == "per_source"

    def fit(self, images: Tensor | Iterable[Tensor] | dict) -> "AnomalyScorer":
        """Learns what is normal; called unless ``fit_sample`` is "none".

        Args:
            images: one batch (N, 3, H, W), or an iterable of batches, read once; with "per_source"
                also a dict from source to such.
        """
        raise NotImplementedError

    def fit_stages(self) -> list[FitStage]:
        """What is fitted one after another when a map folder is made: :meth:`fit` alone, unless the
        scorer is made of others."""
        return [FitStage(self.fit_sample, self.fit)]

    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """Scores a batch of images (N, 3, H, W); all of one ``source``, which only scorers with
        ``told_source`` are told."""
        raise NotImplementedError

    def score(self, images: Tensor, source: str) -> AnomalyScores:
        """Calls the scorer, which is told the source only if it asks for it."""
        return self(images, source) if self.told_source else self(images)

    def computed_with(self) -> dict[str, Tensor]:
        """Everything that scores are computed with: weights, statistics, what fit() learned."""
        return self.state_dict()

    def learned_state(self) -> dict[str, Tensor]:
        """What fit() learned, without the network's weights."""
        own = self.named_buffers(recurse=False)
        state = {name: tensor for name, tensor in own if name != "_place"}
        for part in self.learned_parts:
            module = self.get_submodule(part)
            is_scorer = isinstance(module, AnomalyScorer)
            learned = module.learned_state() if is_scorer else module.state_dict()
            state |= {f"{part}.{name}": tensor for name, tensor in learned.items()}
        return state

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Takes over a :meth:`learned_state`; whatever the sizes of the scorer's own buffers.

        Raises:
            ValueError: it is another scorer's.
        """
        own = set(self.learned_state())
        if set(state) != own:
            raise ValueError(f"The scorer's state has {sorted(state)}, expected {sorted(own)}.")
        state = dict(state)
        for part in self.learned_parts:
            module, start = self.get_submodule(part), f"{part}."
            names = [name for name in state if name.startswith(start)]
            learned = {name.removeprefix(start): state.pop(name) for name in names}
            if isinstance(module, AnomalyScorer):
                module.load_learned_state(learned)
                continue
            expected = module.state_dict()
            if misfits := [n for n in learned if learned[n].shape != expected[n].shape]:
                raise ValueError(f"The state's {part!r} has other shapes than expected: {misfits}.")
            module.load_state_dict(learned)
        for name, tensor in state.items():
            setattr(self, name, tensor.to(self.device))


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
