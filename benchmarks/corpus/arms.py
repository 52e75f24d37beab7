"""What a benchmark of pretraining sets trains on: images by source, and how often each is shown."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2_agssp.data.near_duplicates import find_near_duplicates
from detectron2_agssp.io.files import read_json, write_json
from detectron2_agssp.io.images import list_images

LABELLED = "neu_det"
EQUAL = "equal"


@dataclass(frozen=True)
class Arm:
    """A pretraining set.

    Attributes:
        title: in the table.
        sources: of the corpus, the largest first: how many; 0 for NEU-DET alone.
        equal: as many images as the arm of all sources can have of each the same number of.
        power: ``AGSSP.DATALOADER.SOURCE_POWER``.
    """

    title: str
    sources: int
    equal: bool = False
    power: float = 0.0


ALL = 10**6
ARMS = {
    "neu_det": Arm("NEU-DET alone", 0),
    "corpus_p0": Arm("corpus, as it is", ALL),
    "corpus_p0.5": Arm("corpus, power 0.5", ALL, power=0.5),
    "corpus_p1": Arm("corpus, all sources alike", ALL, power=1.0),
    "equal_neu_det": Arm("equal counts: NEU-DET", 0, equal=True),
    "equal_1": Arm("equal counts: 1 source", 1, equal=True),
    "equal_4": Arm("equal counts: 4 sources", 4, equal=True),
    "equal_all": Arm("equal counts: all sources", ALL, equal=True),
}


def usable_images(corpus: Path, references: Sequence[Path], record: Path) -> dict[str, list[str]]:
    """The corpus' images by source, without those that are nearly a test image; kept in
    ``record``."""
    if not record.exists():
        names = list(list_images(corpus))
        found = find_near_duplicates([corpus / name for name in names], references)
        sources: dict[str, list[str]] = {}
        for name in names:
            if str(corpus / name) not in found:
                sources.setdefault(name.split("/")[0], []).append(name)
        write_json(record, sources)
    return read_json(record)


def chosen_images(
    arm: Arm, corpus: Mapping[str, Sequence[str]], labelled: Sequence[str], draw: int
) -> dict[str, list[str]]:
    """Source -> images of an arm.

    As the single source, draws take those that have enough images one after the other: what it is
    matters more than which of its images.

    Args:
        arm: the set.
        corpus: source -> images.
        labelled: NEU-DET's.
        draw: seeds the choice of an arm of equal counts.
    """
    rng = random.Random(draw)
    order = sorted(corpus, key=lambda name: (-len(corpus[name]), name))
    total = len(corpus[order[-1]]) * len(corpus)
    if arm.sources == 1:
        enough = [name for name in order if len(corpus[name]) >= total]
        order = [enough[draw % len(enough)]]
    images = {name: list(corpus[name]) for name in order[: arm.sources]}
    if not images:
        images = {LABELLED: list(labelled)}
    if not arm.equal:
        return images
    share = total // len(images)
    return {name: sorted(rng.sample(own, share)) for name, own in images.items()}


def link_images(folder: Path, roots: Mapping[str, Path], images: Mapping[str, list[str]]) -> Path:
    """A folder of links, ``<source>/<name>``; ``roots``: of "corpus" and :data:`LABELLED`."""
    for source, names in images.items():
        root = roots.get(source, roots["corpus"])
        (folder / source).mkdir(parents=True, exist_ok=True)
        for name in names:
            link = folder / source / name.rpartition("/")[2]
            if not link.is_symlink():
                os.symlink((root / name).resolve(), link)
    return folder
