"""What a benchmark trains, validates and tests on, from a COCO data set and its settings."""

import hashlib
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

from detectron2_agssp.data.coco import read_coco, register_coco, subset
from detectron2_agssp.data.image_io import list_images
from detectron2_agssp.data.near_duplicates import find_near_duplicates
from detectron2_agssp.data.unlabeled import register_unlabeled
from detectron2_agssp.few_label.settings import Benchmark
from detectron2_agssp.utils.files import atomic_path, write_json


class BenchmarkData:
    """The data of a benchmark, in a folder of its own.

    Args:
        benchmark: the settings.
        root: folder to write: ``<split>.json`` (COCO), ``unlabeled/`` (links to the images that
            pretraining may see) and ``near_duplicates.json`` (those left out).
    """

    def __init__(self, benchmark: Benchmark, root: str | Path):
        self.benchmark, self.root = benchmark, Path(root)
        self.unlabeled = self.root / "unlabeled"
        self.near_duplicates_path = self.root / "near_duplicates.json"

    def prepare(self, *, progress: bool = True) -> None:
        """Writes what is missing; the same settings and images always give the same files.

        Raises:
            FileNotFoundError: the data set is not there.
            ValueError: a COCO file is none, or too few images are left for validation.
        """
        settings, folder = self.benchmark.data, self.benchmark.data.folder
        if not folder.is_dir():
            raise FileNotFoundError(
                f"The data set {str(folder)!r} of {self.benchmark.name}.yaml is not there. "
                "datasets/README.md says how to prepare one; $DETECTRON2_DATASETS is its parent."
            )
        train = read_coco(folder / settings.train)
        draws = self._draws(train)
        drawn = {image["file_name"] for coco in draws.values() for image in coco["images"]}
        validation = self._validation(train, drawn)
        held_out = {image["file_name"] for image in validation["images"]}
        splits = {"validation": validation, "test": read_coco(folder / settings.test), **draws}
        if 100 in self.benchmark.fractions:
            rest = {one["id"] for one in train["images"] if one["file_name"] not in held_out}
            splits[labeled_split(100, self.benchmark.draws[0])] = subset(train, rest)
        for name, coco in splits.items():
            write_json(self.root / f"{name}.json", coco)
        self._link_unlabeled({name: splits[name] for name in ("validation", "test")}, progress)

    def register(self) -> None:
        """Registers the labelled sets with Detectron2, also in another process than prepared
        them."""
        for path in self.root.glob("*.json"):
            if path == self.near_duplicates_path:
                continue
            register_coco(self.name_of(path.stem), path, self._images(path.stem))

    def register_maps(self, name: str, map_root: Path) -> None:
        """Registers the unlabelled images with a folder of their maps."""
        register_unlabeled(self.name_of(name), self.unlabeled, map_root)

    def name_of(self, split: str) -> str:
        """The registered name of "validation", "test", a :func:`labeled_split` or maps."""
        return f"few_label_{self.benchmark.name}_{split}"

    def num_classes(self) -> int:
        return len(read_coco(self.root / "test.json")["categories"])

    def num_images(self, split: str) -> int:
        return len(read_coco(self.root / f"{split}.json")["images"])

    def _images(self, split: str) -> Path:
        """The folder that the file names of a split are relative to."""
        settings = self.benchmark.data
        of_test = settings.test_images or settings.images
        return settings.folder / (of_test if split == "test" else settings.images)

    def _draws(self, train: dict) -> dict[str, dict]:
        """Split -> COCO of every draw below 100 %."""
        settings = self.benchmark.data
        draws = {}
        for fraction in sorted(self.benchmark.fractions):
            for draw in self.benchmark.draws_of(fraction) if fraction < 100 else ():
                if settings.labeled:
                    name = settings.labeled.format(fraction=f"{fraction:g}", draw=draw)
                    coco = read_coco(settings.folder / name)
                else:
                    coco = draw_labeled(train, fraction, f"{settings.seed} {draw}")
                draws[labeled_split(fraction, draw)] = coco
        return draws

    def _validation(self, train: dict, drawn: set[str]) -> dict:
        count, seed = self.benchmark.data.validation_images, self.benchmark.data.seed
        ids = {image["file_name"]: image["id"] for image in train["images"]}
        free = sorted(ids.keys() - drawn)
        if len(free) < count:
            raise ValueError(
                f"data.validation_images is {count}, but only {len(free)} images of "
                f"{self.benchmark.data.train} are in no draw."
            )
        chosen = random.Random(f"{seed} validation").sample(free, count)
        validation = subset(train, {ids[name] for name in chosen})
        if not validation["annotations"]:
            raise ValueError(
                f"None of the {count} validation images has a label: raise data.validation_images."
            )
        return validation

    def _link_unlabeled(self, held_out: dict[str, dict], progress: bool) -> None:
        """Links every unlabelled image that is not, nearly, one of the held-out splits (split ->
        COCO): pretraining on an image, even without its label, flatters the pretrained starts."""
        if self.near_duplicates_path.exists():
            return
        settings, folder = self.benchmark.data, self.benchmark.data.folder
        source = folder / settings.unlabeled
        names = list(list_images(source))
        found = find_near_duplicates(
            [source / name for name in names],
            [
                self._images(split) / image["file_name"]
                for split, coco in held_out.items()
                for image in coco["images"]
            ],
            settings.near_duplicates,
            progress=progress,
        )
        kept = [name for name in names if str(source / name) not in found]
        if not kept:
            raise ValueError(
                f"Each of the {len(names)} images in {source} is nearly one of validation or "
                "test: there is nothing to pretrain on. Raise data.near_duplicates, or name other "
                "images."
            )
        for name in kept:
            with atomic_path(self.unlabeled / name, self.root) as link:
                os.symlink((source / name).resolve(), link)
        left_out = {
            os.path.relpath(image, source): [os.path.relpath(reference, folder), round(value, 4)]
            for image, (reference, value) in found.items()
        }
        write_json(self.near_duplicates_path, {"kept": len(kept), "left_out": left_out})


def labeled_split(fraction: float, draw: int) -> str:
    """The name of a labelled draw: ``labeled_10pct_draw0``."""
    return f"labeled_{fraction:g}pct_draw{draw}"


def draw_labeled(coco: dict, percent: float, seed: str) -> dict:
    """A draw of labelled images, class by class (an image's class is its most frequent one): that
    share of each, one at least. With the same seed, a small draw is part of a larger one."""
    labels = defaultdict(list)
    for annotation in coco["annotations"]:
        labels[annotation["image_id"]].append(annotation["category_id"])
    groups = defaultdict(list)
    for image in coco["images"]:
        if image["id"] in labels:
            counts = Counter(labels[image["id"]])
            group = max(sorted(counts), key=counts.__getitem__)
            groups[group].append(image)
    chosen: set[int] = set()
    for group, members in groups.items():
        # In an order of its own for each seed, which adding an image does not change.
        members.sort(key=lambda image: _shuffled(f"{seed} {group} {image['file_name']}"))
        count = max(1, round(percent / 100 * len(members)))
        chosen.update(image["id"] for image in members[:count])
    return subset(coco, chosen)


def _shuffled(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
