"""Several scorers as one, on one grid and by one measure, as each has its own of both."""

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    FitStage,
    as_batches,
    check_finite,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.coreset import VectorReservoir
from detectron2_agssp.scoring.patch_features import resize_cells
from detectron2_agssp.utils.registry import get_registered

COMBINATIONS = ("product", "ranks")
# Cells whose scores stand for all.
SAMPLED_CELLS = 100_000
# As maps are calibrated by default: the quantiles that become 0 and 1 before scores are multiplied.
LOW_QUANTILE, HIGH_QUANTILE = 0.5, 0.999
# What a member may have of its own; beside the keys of its own node.
OWN_KEYS = ("BLOCKS", "CENTER", "IMAGE_SIZE", "IN_FEATURES", "POOL_SIZE", "STRIDES")


class EnsembleScorer(AnomalyScorer):
    """The members' ranks together, or the product of their scores: a cell is odd where several
    scorers say so. An image scores its maximum.

    Each member gets the images at its own size, and its map is brought to the finest grid of all.

    Args:
        members: scorers, two or more; each is fitted on its own ``fit_sample``.
        combine: "ranks", the mean of -log p, with p the share of all cells that score as much or
            more (Fisher's way to combine tests); or "product", of scores of which the median is 0
            and the quantile 0.999 is 1, clipped below 0.
        seed: of the sample of cells that the quantiles and ranks are of.
    """

    @configurable
    def __init__(self, *, members: Sequence[AnomalyScorer], combine: str = "ranks", seed: int = 0):
        super().__init__()
        if len(members) < 2:
            raise ValueError(
                f"AGSSP.SCORER.ENSEMBLE.MEMBERS must name two scorers or more, got {len(members)}."
            )
        if combine not in COMBINATIONS:
            raise ValueError(
                f"AGSSP.SCORER.ENSEMBLE.COMBINE is {combine!r}. Choices: {', '.join(COMBINATIONS)}."
            )
        self.members = nn.ModuleList(members)
        self.learned_parts = tuple(f"members.{index}" for index in range(len(members)))
        self.combine, self.seed = combine, seed
        per_source = [member for member in members if member.fit_sample == "per_source"]
        self.fit_sample = "per_source" if per_source else "unlabeled"
        self.images_per_source = max((m.images_per_source for m in per_source), default=0)
        self.image_size = max(member.image_size for member in members)
        # In pixels of the largest image.
        self.stride = max(1, min(m.stride * self.image_size // m.image_size for m in members))
        self.size_divisor = math.lcm(self.stride, *(m.size_divisor for m in members))
        # Sorted scores of the sampled cells, a row a member.
        self.register_buffer("sample", torch.zeros(len(members), 0))

    @classmethod
    def from_config(cls, cfg):
        scorer = cfg.AGSSP.SCORER
        return {
            "members": [build_member(cfg, member) for member in scorer.ENSEMBLE.MEMBERS],
            "combine": scorer.ENSEMBLE.COMBINE,
            "seed": scorer.SEED,
        }

    @property
    def told_source(self) -> bool:
        return any(member.told_source for member in self.members)

    def fit_stages(self) -> list[FitStage]:
        stages = [
            FitStage(member.fit_sample, lambda images, member=member: self._fit(member, images))
            for member in self.members
            if member.fit_sample != "none"
        ]
        return [*stages, FitStage("unlabeled", self.fit_sample_of_cells)]

    def fit(self, images: Tensor | Iterable[Tensor] | dict) -> "EnsembleScorer":
        """Fits each member on the same images, which are kept in memory meanwhile; map folders are
        fitted by :meth:`fit_stages` instead, in one pass a stage.

        Raises:
            ValueError: there are no images, or a member refuses them.
        """
        by_source = {
            source: batches if isinstance(batches, Tensor) else list(batches)
            for source, batches in (images if isinstance(images, dict) else {"": images}).items()
        }
        for stage in self.fit_stages():
            every = [batch for batches in by_source.values() for batch in as_batches(batches)]
            stage.fit(by_source if stage.sample == "per_source" else every)
        return self

    def _fit(self, member: AnomalyScorer, images: Tensor | Iterable[Tensor] | dict) -> None:
        if isinstance(images, dict):
            member.fit({source: self._resized(member, own) for source, own in images.items()})
        else:
            member.fit(self._resized(member, images))

    def _resized(self, member, images: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
        return (self._at_size_of(member, batch) for batch in as_batches(images))

    def _at_size_of(self, member: AnomalyScorer, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), in proportion to the member's own size."""
        divisor = member.size_divisor
        sides = [
            max(1, round(side * member.image_size / self.image_size / divisor)) * divisor
            for side in images.shape[-2:]
        ]
        if list(images.shape[-2:]) == sides:
            return images
        images = F.interpolate(images.to(self.device), sides, mode="bilinear", antialias=True)
        # Bytes, as images of a file are.
        return images.round()

    @torch.no_grad()
    def fit_sample_of_cells(self, images: Tensor | Iterable[Tensor]) -> None:
        """Learns the members' ranges, which must be fitted.

        Raises:
            ValueError: there are no images, or scores that are not finite.
        """
        reservoir = VectorReservoir(SAMPLED_CELLS, self.seed)
        for batch in as_batches(images):
            reservoir.add(self._member_maps(batch, "").flatten(1).T)
        cells = reservoir.vectors()
        if cells is None or len(cells) == 0:
            raise ValueError("The ensemble scorer was given no images to fit on.")
        check_finite(cells, "The members' scores")
        self.sample = cells.T.sort(dim=1).values.contiguous()

    def _member_maps(self, images: Tensor, source: str) -> Tensor:
        """(M, N, h, w), each member's raw maps on the finest grid."""
        grid = [max(1, side // self.stride) for side in images.shape[-2:]]
        maps = [
            member.score(self._at_size_of(member, images), source).maps for member in self.members
        ]
        return torch.stack([resize_cells(own[:, None], grid)[:, 0] for own in maps])

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255] -> raw scores on the finest grid.

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if self.sample.shape[1] == 0:
            raise RuntimeError("The ensemble scorer is not fitted: call fit(images) first.")
        check_images(images)
        raw = self._member_maps(images, source)
        scaled = torch.stack(list(map(self._scaled, raw, self.sample)))
        maps = scaled.prod(dim=0) if self.combine == "product" else scaled.mean(dim=0)
        # NaN has no rank.
        maps = maps.where(raw.isfinite().all(dim=0), torch.nan)
        return AnomalyScores(maps, strongest_cells(maps))

    def _scaled(self, maps: Tensor, sample: Tensor) -> Tensor:
        """A member's maps by its sorted sample of scores."""
        if self.combine == "ranks":
            # The cell itself counts as one, so that p is never 0.
            less = torch.searchsorted(sample, maps.contiguous())
            return -torch.log((len(sample) - less + 1).float() / (len(sample) + 1))
        low, high = (sample[int(q * (len(sample) - 1))] for q in (LOW_QUANTILE, HIGH_QUANTILE))
        # Where nearly all cells score the same, the strongest is the measure.
        high = torch.where(high > low, high, sample[-1])
        return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(min=0)


def member_name(member: str) -> str:
    """The scorer's name in an entry of ``AGSSP.SCORER.ENSEMBLE.MEMBERS``."""
    return member.split()[0] if member.split() else ""


def build_member(cfg: CfgNode, member: str) -> AnomalyScorer:
    """Builds an entry of ``AGSSP.SCORER.ENSEMBLE.MEMBERS``: a scorer's name, and KEY VALUE pairs of
    ``AGSSP.SCORER`` in which it differs, as on a command line.

    Raises:
        ValueError: no such scorer, or a key that a member has no own value of.
    """
    name, *pairs = shlex.split(member) or [""]
    if name == "ensemble":
        raise ValueError("AGSSP.SCORER.ENSEMBLE.MEMBERS must not name an ensemble.")
    build = get_registered(ANOMALY_SCORER_REGISTRY, name, key="AGSSP.SCORER.ENSEMBLE.MEMBERS")
    keys = pairs[::2]
    unknown = [
        key for key in keys if key not in OWN_KEYS and not key.startswith(f"{name.upper()}.")
    ]
    if unknown or len(pairs) % 2:
        raise ValueError(
            f"AGSSP.SCORER.ENSEMBLE.MEMBERS has {member!r}: a scorer's name is followed by pairs "
            f"of a key, {', '.join(OWN_KEYS)} or {name.upper()}.*, and its value."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.AGSSP.SCORER.NAME = name
    cfg.merge_from_list(
        [part for k, v in zip(keys, pairs[1::2], strict=True) for part in (f"AGSSP.SCORER.{k}", v)]
    )
    return build(cfg)


@ANOMALY_SCORER_REGISTRY.register()
def ensemble(cfg) -> EnsembleScorer:
    """``AGSSP.SCORER.NAME: ensemble``."""
    return EnsembleScorer(cfg)
