"""Mutual scoring of unlabelled images (MuSc, Li et al., ICLR 2024).

A normal patch has one like it in most other images; a defect in few. Shapes: N images, R reference
images of a source, L levels, C_l channels, h_l x w_l cells a level, P_r cells of a reference.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor

from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    as_batches,
    check_finite,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.features import build_patch_features
from detectron2_agssp.scoring.patch_features import average_neighbours, resize_cells

# Similarities held at once: cells of one image times cells of the references in one product, of
# one reference at least. A CPU's caches hold so many until their maximum is taken; a GPU is filled.
MAX_SIMILARITIES = 1 << 19
MAX_SIMILARITIES_GPU = 1 << 24

logger = logging.getLogger(__name__)


class MutualScorer(AnomalyScorer):
    """Mean of the lowest image-wise minima of 1 - cosine, over levels and neighbourhood sizes.

    For each cell and each reference image of its source, the distance to that image's most similar
    cell; of those R distances the mean of the lowest share (at least one). The image itself, and
    exact copies of it, are left out of its references.

    Args:
        features: module with ``levels(images) -> [(N, C_l, h_l, w_l)]``, ``level_channels``,
            ``stride`` and ``size_divisor``; its own averaging and centring are not used.
        image_size: side in pixels of the square that images are resized to.
        references: images kept per source, a seeded sample: the bound on memory.
        lowest: share of the references whose distances count, in (0, 1].
        neighbourhoods: sides of the local averages, cells, odd.
        seed: of the sample.
    """

    fit_sample = "per_source"

    @configurable
    def __init__(
        self,
        *,
        features: torch.nn.Module,
        image_size: int = 256,
        references: int = 32,
        lowest: float = 0.3,
        neighbourhoods: tuple[int, ...] = (1, 3, 5),
        seed: int = 0,
    ):
        super().__init__()
        if references < 2 or not 0 < lowest <= 1:
            raise ValueError(
                "AGSSP.SCORER.MUTUAL needs REFERENCES of 2 or more and LOWEST in (0, 1], got "
                f"{references} and {lowest}."
            )
        if not neighbourhoods or any(side < 1 or side % 2 == 0 for side in neighbourhoods):
            raise ValueError(
                "AGSSP.SCORER.MUTUAL.NEIGHBOURHOODS must be odd and positive, got "
                f"{tuple(neighbourhoods)}."
            )
        self.features = features
        self.image_size = image_size
        self.take_grid(features)
        self.images_per_source, self.lowest, self.seed = references, lowest, seed
        self.neighbourhoods = tuple(neighbourhoods)
        # Of every reference: its source's and its pixels' hash, its grid, and its unit features
        # (float16: sources may be many), cells of all references in one row after the other.
        self.register_buffer("sources", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("contents", torch.zeros(0, dtype=torch.int64))
        for level, channels in enumerate(features.level_channels):
            self.register_buffer(f"grids{level}", torch.zeros(0, 2, dtype=torch.int64))
            self.register_buffer(f"bank{level}", torch.zeros(0, channels, dtype=torch.float16))
        self._active: tuple[int, Tensor, list[list[_References]]] | None = None

    @classmethod
    def from_config(cls, cfg):
        scorer = cfg.AGSSP.SCORER
        return {
            "features": build_patch_features(cfg),
            "image_size": scorer.IMAGE_SIZE,
            "references": scorer.MUTUAL.REFERENCES,
            "lowest": scorer.MUTUAL.LOWEST,
            "neighbourhoods": scorer.MUTUAL.NEIGHBOURHOODS,
            "seed": scorer.SEED,
        }

    @torch.no_grad()
    def fit(
        self, images: Tensor | Iterable[Tensor] | Mapping[str, Iterable[Tensor]]
    ) -> "MutualScorer":
        """Fills the reference bank, in one pass: each source keeps the ``references`` images of
        the lowest seeded hash, whatever their order.

        Args:
            images: as in the base class (one source, ""), or source -> batches, each read once.
                Batches may differ in size. A source with under two different images has no
                references of its own: its images are compared with those of all sources.

        Raises:
            ValueError: no source has two different images, or their features are not finite.
        """
        per_source = images if isinstance(images, Mapping) else {"": images}
        sources, contents, banks = [], [], []
        lone = None
        for source, batches in per_source.items():
            kept = self._sample(batches)
            if len(kept) == 1:
                lone = source
                logger.warning(
                    "Source %r has one image only, or copies of one: it is compared with the "
                    "references of all sources.",
                    source,
                )
                continue
            for key in sorted(kept, key=self._rank):
                sources.append(_source_hash(source))
                contents.append(key)
                banks.append(kept[key])
        if not sources and lone is not None:
            raise ValueError(
                f"The mutual scorer compares images with each other, but the source {lone!r} has "
                "one image only, or copies of one. Give it two or more, or choose "
                "AGSSP.SCORER.NAME mahalanobis or memory."
            )
        if not sources:
            raise ValueError("The mutual scorer was given no images to fit on.")
        device = self.device
        self.sources = torch.tensor(sources, device=device)
        self.contents = torch.tensor(contents, device=device)
        for level in range(len(self.features.level_channels)):
            maps = [image[level] for image in banks]
            grids = torch.tensor([image.shape[-2:] for image in maps], device=device)
            setattr(self, f"grids{level}", grids)
            setattr(self, f"bank{level}", torch.cat([image.flatten(1).T for image in maps]))
        self._active = None
        return self

    def _sample(self, batches: Tensor | Iterable[Tensor]) -> dict[int, list[Tensor]]:
        """Content -> unit features per level (C_l, h_l, w_l), float16, of the images to keep."""
        kept: dict[int, list[Tensor]] = {}
        for batch in as_batches(batches):
            levels = [F.normalize(level, dim=1) for level in self._levels(batch)]
            for level in levels:
                check_finite(level, "The features of the images to fit on")
            keys = content_hashes(batch).tolist()
            ranked = sorted({*kept, *keys}, key=self._rank)[: self.images_per_source]
            kept = {key: kept.get(key, []) for key in ranked}
            for index, key in enumerate(keys):
                if key in kept and not kept[key]:
                    # Of its own: a view would keep the whole batch.
                    kept[key] = [level[index].to(torch.float16, copy=True) for level in levels]
        return kept

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        super().load_learned_state(state)
        self._active = None

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255], of one source -> raw scores in [0, 2].

        Images of a source that the scorer was not fitted on are compared with all references.

        Raises:
            RuntimeError: the scorer was not fitted.
        """
        if len(self.sources) == 0:
            raise RuntimeError("The mutual scorer is not fitted: call fit(images) first.")
        check_images(images)
        contents, references = self._activate(source)
        levels = self._levels(images)
        grid = levels[0].shape[-2:]
        # (N, R): not the image itself, nor a copy of it.
        others = content_hashes(images).to(self.device)[:, None] != contents
        total = torch.zeros(len(images), *grid, device=self.device)
        for level, banks in zip(levels, references, strict=True):
            unit = F.normalize(level, dim=1)
            for side, bank in zip(self.neighbourhoods, banks, strict=True):
                cells = F.normalize(average_neighbours(unit, side), dim=1)
                scores = cells.new_zeros(len(cells), 1, *cells.shape[-2:])
                for index, image in enumerate(cells):
                    scores[index, 0] = self._score(image, bank, others[index])
                total += resize_cells(scores, grid)[:, 0]
        maps = total / (len(levels) * len(self.neighbourhoods))
        return AnomalyScores(maps, strongest_cells(maps))

    def _score(self, cells: Tensor, references: "_References", allowed: Tensor) -> Tensor:
        """Unit vectors (C, h, w) against the ``allowed`` (R,) of the references -> (h, w)."""
        nearest = references.nearest(cells.flatten(1).T)
        nearest = nearest.masked_fill(~allowed, -torch.inf)
        count = max(1, round(self.lowest * int(allowed.sum())))
        distances = 1 - nearest.topk(count, dim=1).values
        return distances.mean(dim=1).clamp(0, 2).view(cells.shape[1:])

    def _levels(self, images: Tensor) -> list[Tensor]:
        return [level.float() for level in self.features.levels(images.to(self.device))]

    def _rank(self, key: int) -> bytes:
        return hashlib.blake2b(f"{self.seed}:{key}".encode(), digest_size=8).digest()

    def _activate(self, source: str) -> tuple[Tensor, list[list["_References"]]]:
        """The source's references: the hashes of their pixels (R,), and their cells per level and
        neighbourhood. Kept for the next call: images come source by source."""
        key = _source_hash(source)
        if self._active is None or self._active[0] != key:
            members = self.sources == key
            if not members.any():
                members = torch.ones_like(members)
            references = []
            for level in range(len(self.features.level_channels)):
                grids = getattr(self, f"grids{level}").tolist()
                cells = getattr(self, f"bank{level}").split([h * w for h, w in grids])
                chosen = [
                    vectors.float().T.unflatten(1, grid)[None]
                    for vectors, grid, member in zip(cells, grids, members.tolist(), strict=True)
                    if member
                ]
                references.append(
                    [
                        _References([_around(image, side) for image in chosen])
                        for side in self.neighbourhoods
                    ]
                )
            self._active = (key, self.contents[members], references)
        return self._active[1:]


class _References:
    """Unit vectors of R reference images, each (C, P_r)."""

    def __init__(self, images: list[Tensor]):
        self.sizes = [image.shape[1] for image in images]
        self.cells = torch.cat(images, dim=1)

    def nearest(self, queries: Tensor) -> Tensor:
        """(Q, C) -> (Q, R), the cosine with the most similar cell of each image."""
        limit = MAX_SIMILARITIES if queries.device.type == "cpu" else MAX_SIMILARITIES_GPU
        cosines, column, first = [], 0, 0
        while first < len(self.sizes):
            sizes = self._next_part(first, limit // len(queries))
            similarities = queries @ self.cells[:, column : column + sum(sizes)]
            if len(set(sizes)) == 1:
                cosines.append(similarities.unflatten(1, (len(sizes), sizes[0])).amax(dim=2))
            else:
                parts = similarities.split(sizes, dim=1)
                cosines.append(torch.stack([part.amax(dim=1) for part in parts], dim=1))
            column += sum(sizes)
            first += len(sizes)
        return torch.cat(cosines, dim=1)

    def _next_part(self, first: int, limit: int) -> list[int]:
        """Sizes of the images from ``first`` on that fit into ``limit`` cells; one at least."""
        part = self.sizes[first : first + 1]
        for size in self.sizes[first + 1 :]:
            if sum(part) + size > limit:
                break
            part.append(size)
        return part


def _around(image: Tensor, side: int) -> Tensor:
    """(1, C, h, w) -> the unit vectors of the cells' neighbourhoods, (C, h * w)."""
    return F.normalize(average_neighbours(image, side), dim=1)[0].flatten(1)


def content_hashes(images: Tensor) -> Tensor:
    """(N, 3, H, W) floating point -> (N,) int64, equal for equal images."""
    bits = images.float().flatten(1).contiguous().view(torch.int32).to(torch.int64)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator)
    # Overflow wraps around, the same on every device.
    return (bits * weights.to(bits.device)).sum(dim=1)


def _source_hash(source: str) -> int:
    digest = hashlib.blake2b(source.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@ANOMALY_SCORER_REGISTRY.register()
def mutual(cfg) -> MutualScorer:
    """``AGSSP.SCORER.NAME: mutual``."""
    return MutualScorer(cfg)
