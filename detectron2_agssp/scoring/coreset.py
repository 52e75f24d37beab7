"""A small set of vectors that covers a large one, chosen with bounded memory.

Shapes: n vectors of D numbers, m of them chosen.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

# Distances between random projections to this many numbers stand for the distances themselves
# (Johnson-Lindenstrauss; PatchCore, Roth et al. 2022).
PROJECTED = 128


class VectorReservoir:
    """A uniform sample of a stream of vectors, seeded: memory depends on ``size`` alone.

    Each vector draws a random rank; the ``size`` lowest are kept, in the order of the stream,
    however it is cut into batches.

    Args:
        size: vectors kept, positive.
        seed: of the ranks.
    """

    def __init__(self, size: int, seed: int = 0):
        if size < 1:
            raise ValueError(f"A sample must have a positive size, got {size}.")
        self.size = size
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._ranks: Tensor | None = None
        self._vectors: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Offers vectors (n, D)."""
        self.seen += len(vectors)
        # Drawn on the CPU: the same sample on every device. float64: among millions of float32
        # numbers many are equal.
        ranks = torch.rand(len(vectors), generator=self._generator, dtype=torch.float64)
        ranks = ranks.to(vectors.device)
        if self._vectors is not None:
            if len(self._ranks) == self.size:
                # Late in the stream nearly all are dropped here, before anything is copied.
                lower = ranks < self._ranks.max()
                ranks, vectors = ranks[lower], vectors[lower]
            if len(ranks) == 0:
                return
            ranks = torch.cat([self._ranks, ranks])
            vectors = torch.cat([self._vectors, vectors])
        if len(ranks) > self.size:
            kept = ranks.topk(self.size, largest=False).indices.sort().values
            ranks, vectors = ranks[kept], vectors[kept]
        self._ranks, self._vectors = ranks, vectors

    def vectors(self) -> Tensor | None:
        """The sample (at most ``size``, D); None if nothing was offered."""
        return self._vectors


@torch.no_grad()
def greedy_k_center(vectors: Tensor, count: int, seed: int = 0, progress: bool = False) -> Tensor:
    """Indices of ``count`` vectors such that every vector has a chosen one near it.

    Takes, again and again, the vector farthest from those taken (Gonzalez 1985: at most twice the
    best possible radius; of more than 128 numbers, distances are those of a random projection, and
    that bound is approximate). Beside the vectors it holds their projection, and two numbers each.

    Args:
        vectors: (n, D), finite.
        count: how many, positive; all if n is smaller.
        seed: of the random projection, and of the first vector.
        progress: show a bar with the time left.

    Returns:
        (min(count, n),) int64, none twice, in the order of choice (all: in theirs).

    Raises:
        ValueError: ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"greedy_k_center chooses one vector or more, got count {count}.")
    if count >= len(vectors):
        return torch.arange(len(vectors), device=vectors.device)
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(vectors), (1,), generator=generator))
    if vectors.shape[1] > PROJECTED:
        projection = torch.randn(vectors.shape[1], PROJECTED, generator=generator)
        vectors = vectors @ (projection / PROJECTED**0.5).to(vectors)
    squares = vectors.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = torch.empty(count, dtype=torch.int64, device=vectors.device)
    chosen[0] = first
    steps: Iterable[int] = tqdm(range(1, count), desc="coreset", disable=not progress)
    for step in steps:
        center = vectors[chosen[step - 1]]
        # Kept on the device: waiting for an index each time would cost more than the product.
        distances = squares - 2 * (vectors @ center) + center.square().sum()
        nearest = torch.minimum(nearest, distances)
        # Rounding must not let a chosen vector be farthest from itself.
        nearest[chosen[step - 1]] = -torch.inf
        chosen[step] = nearest.argmax()
    return chosen
