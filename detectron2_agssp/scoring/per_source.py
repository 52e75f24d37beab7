"""A scorer fitted for each source on that source's images alone."""

import os
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from detectron2_agssp.scoring.base import AnomalyScorer, AnomalyScores, FitStage, as_batches

# Of fit(): what is fitted on all images, for sources that have no fit of their own.
COMMON = ""


def can_fit_per_source(scorer: AnomalyScorer) -> bool:
    """Whether the scorer learns something of a folder that it could learn of each source."""
    return any(stage.sample in ("unlabeled", "normal") for stage in scorer.fit_stages())


class PerSourceScorer(AnomalyScorer):
    """Another scorer, with what it learned of each source (``AGSSP.SCORER.PER_SOURCE``).

    There is one network in memory; what fit() learns is swapped when the source changes. Images of
    a source without a fit of its own are scored by one on all images.

    Args:
        scorer: on its device, unfitted; one that :func:`can_fit_per_source`.
    """

    fit_sample = "per_source"

    def __init__(self, *, scorer: AnomalyScorer):
        super().__init__()
        self.scorer = scorer
        self.image_size, self.noise = scorer.image_size, scorer.noise
        self.stride, self.size_divisor = scorer.stride, scorer.size_divisor
        self.images_per_source = scorer.images_per_source
        # What each fit begins with, whatever was fitted before it.
        self._start = _copied(scorer.learned_state())
        # Source -> what fit() learned, COMMON first; empty before it.
        self._learned: dict[str, dict[str, Tensor]] = {}
        self._active: str | None = None
        self.to(scorer.device)

    @property
    def sources(self) -> list[str]:
        """Those that have a fit of their own, in the order in which they were fitted."""
        return [source for source in self._learned if source != COMMON]

    def fit_stages(self) -> list[FitStage]:
        stages = self.scorer.fit_stages()
        return [
            FitStage(stage.sample, partial(self._fit_stage, stage, stage is stages[0]), True)
            for stage in stages
        ]

    def _fit_stage(
        self, stage: FitStage, is_first: bool, pairs: Iterable[tuple[str, object]]
    ) -> None:
        if is_first:
            self._learned.clear()
        self._active = None
        for source, images in pairs:
            # Copies: a scorer may learn in place.
            self.scorer.load_learned_state(_copied(self._learned.get(source, self._start)))
            try:
                stage.fit(images)
            except ValueError as error:
                if source == COMMON:
                    raise
                raise ValueError(
                    f"AGSSP.SCORER.PER_SOURCE: the source {source!r} cannot be fitted on alone. "
                    f"{error}"
                ) from error
            self._learned[source] = _copied(self.scorer.learned_state())

    def fit(self, images: Tensor | Iterable[Tensor] | dict) -> "PerSourceScorer":
        """Fits on each source, and on all images, which are kept in memory meanwhile; map folders
        are fitted by :meth:`fit_stages` instead, in passes.

        Args:
            images: source -> batches; or batches of one source, "".

        Raises:
            ValueError: there are no images, or the scorer refuses those of a source.
        """
        by_source = {
            source: list(as_batches(batches))
            for source, batches in (
                images if isinstance(images, dict) else {COMMON: images}
            ).items()
        }
        every = [batch for batches in by_source.values() for batch in batches]
        for stage in self.fit_stages():
            if stage.sample == "per_source":
                pairs = [(source, {source: own}) for source, own in by_source.items()]
                whole: object = by_source
            else:
                pairs, whole = list(by_source.items()), every
            own = [pair for pair in pairs if pair[0] != COMMON and len(by_source) > 1]
            stage.fit([(COMMON, whole), *own])
        return self

    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255], of one source -> raw scores, by what was
        learned of it; of a source that is not known, by what was learned of all images.

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if not self._learned:
            raise RuntimeError("The scorer is not fitted: call fit(images) first.")
        known = source if source in self._learned else COMMON
        if known != self._active:
            self.scorer.load_learned_state(self._learned[known])
            self._active = known
        return self.scorer.score(images, source)

    def computed_with(self) -> dict[str, Tensor]:
        # Without what happens to be active.
        learned = self.scorer.learned_state()
        network = self.scorer.computed_with()
        return {
            **{name: tensor for name, tensor in network.items() if name not in learned},
            **self.learned_state(),
        }

    def learned_state(self) -> dict[str, Tensor]:
        """Of all images as ``common.*``, of the n-th of ``sources`` (UTF-8, each ended by a zero
        byte) as ``n.*``."""
        names = b"".join(os.fsencode(source) + b"\0" for source in self.sources)
        state = {"sources": torch.tensor(list(names), dtype=torch.uint8)}
        for source, start in zip(self._learned, _starts(self.sources), strict=False):
            learned = self._learned[source]
            state |= {f"{start}.{name}": tensor for name, tensor in learned.items()}
        return state

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        if "sources" not in state or state["sources"].dtype != torch.uint8:
            raise ValueError(f"The state has no sources; it has {sorted(state)[:9]}.")
        names = bytes(state["sources"].flatten().tolist()).split(b"\0")[:-1]
        sources = [os.fsdecode(name) for name in names]
        expected = {
            f"{start}.{name}" for start in _starts(sources) for name in self.scorer.learned_state()
        }
        if set(state) != expected | {"sources"} or len({COMMON, *sources}) != len(sources) + 1:
            raise ValueError(
                f"The scorer's state has {len(state)} arrays, expected {len(expected) + 1}, of "
                f"{len(sources)} sources and of all images."
            )
        learned = {}
        for source, start in zip([COMMON, *sources], _starts(sources), strict=True):
            own = self.scorer.learned_state()
            learned[source] = {name: state[f"{start}.{name}"].to(self.device) for name in own}
            # It says what is wrong with them.
            self.scorer.load_learned_state(learned[source])
        self._learned, self._active = learned, None


def _starts(sources: list[str]) -> list[str]:
    """Of the names in a state, of all images and of each source."""
    return ["common", *map(str, range(len(sources)))]


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
