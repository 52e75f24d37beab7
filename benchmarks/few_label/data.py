"""What a benchmark trains, validates and tests on, from a COCO data set and its settings."""

import hashlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.few_label.settings import Benchmark
from detectron2_agssp.data.near_duplicates import find_near_duplicates
from detectron2_agssp.io.coco import (
    check_same_categories,
    read_coco,
    register_coco,
    subset,
    write_coco,
)
from detectron2_agssp.io.files import atomic_path, read_json, write_json
from detectron2_agssp.io.images import list_images


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

    def prepare(self, results: str | Path, *, progress: bool = True) -> None:
        """Writes what is missing; the same settings and images always give the same files.

        Args:
            results: folder of the results. ``validation_images.json`` there keeps the names of the
                validation images: rates were chosen on them, and pretraining has not seen them,
                so they stay when fractions or draws are added.
            progress: show a bar while images are compared.

        Raises:
            FileNotFoundError: the data set is not there.
            ValueError: a COCO file is none or has other categories than the rest, too few images
                are left for validation, or those chosen earlier are in a draw by now.
        """
        settings, folder = self.benchmark.data, self.benchmark.data.folder
        if not folder.is_dir():
            raise FileNotFoundError(
                f"The data set {str(folder)!r} of {self.benchmark.name}.yaml is not there. "
                "datasets/README.md says how to prepare one; $DETECTRON2_DATASETS is its parent."
            )
        train = read_coco(folder / settings.train)
        given = self._given_draws()
        drawn = {image["file_name"] for coco in given.values() for image in coco["images"]}
        validation = self._validation(train, drawn, Path(results) / "validation_images.json")
        held_out = {image["id"] for image in validation["images"]}
        rest = subset(train, {image["id"] for image in train["images"]} - held_out)
        draws = given or self._own_draws(rest)
        splits = {"validation": validation, "test": read_coco(folder / settings.test), **draws}
        if 100 in self.benchmark.fractions:
            splits[labeled_split(100, self.benchmark.draws[0])] = rest
        check_same_categories(splits)
        for name, coco in splits.items():
            write_coco(self.root / f"{name}.json", coco)
        self._link_unlabeled({name: splits[name] for name in ("validation", "test")}, progress)

    def register(self) -> None:
        """Registers the labelled sets with Detectron2, also in another process than prepared
        them."""
        for path in self.root.glob("*.json"):
            if path == self.near_duplicates_path:
                continue
            register_coco(self.name_of(path.stem), path, self._images(path.stem))

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

    def _draws(self) -> Iterator[tuple[float, int]]:
        """Fraction and number of every draw below 100 %."""
        for fraction in sorted(self.benchmark.fractions):
            for draw in self.benchmark.draws_of(fraction) if fraction < 100 else ():
                yield fraction, draw

    def _given_draws(self) -> dict[str, dict]:
        """Split -> COCO of the draws that come with the data set, if any do."""
        settings = self.benchmark.data
        if not settings.labeled:
            return {}
        return {
            labeled_split(fraction, draw): read_coco(
                settings.folder / settings.labeled.format(fraction=f"{fraction:g}", draw=draw)
            )
            for fraction, draw in self._draws()
        }

    def _own_draws(self, train: dict) -> dict[str, dict]:
        seed = self.benchmark.data.seed
        return {
            labeled_split(fraction, draw): draw_labeled(train, fraction, f"{seed} {draw}")
            for fraction, draw in self._draws()
        }

    def _validation(self, train: dict, drawn: set[str], record: Path) -> dict:
        ids = {image["file_name"]: image["id"] for image in train["images"]}
        chosen = self._chosen_earlier(record)
        if chosen is None:
            chosen = self._choose(sorted(ids.keys() - drawn))
        if gone := len(set(chosen) - ids.keys()):
            raise ValueError(
                f"{gone} of the validation images chosen earlier ({record}) are not in "
                f"{self.benchmark.data.train} any more. Name other folders for the output and the "
                "results, to begin anew."
            )
        if taken := len(drawn.intersection(chosen)):
            raise ValueError(
                f"{taken} of the {len(chosen)} validation images, on which learning rates were "
                "chosen, are in one of the draws: fractions or draws were added. Take that back, "
                "or name other folders for the output and the results, to begin anew."
            )
        validation = subset(train, {ids[name] for name in chosen})
        if not validation["annotations"]:
            raise ValueError(
                f"None of the {len(chosen)} validation images has a label: raise "
                "data.validation_images."
            )
        write_json(record, chosen)
        return validation

    def _choose(self, free: list[str]) -> list[str]:
        count, seed = self.benchmark.data.validation_images, self.benchmark.data.seed
        if len(free) < count:
            raise ValueError(
                f"data.validation_images is {count}, but only {len(free)} images of "
                f"{self.benchmark.data.train} are in no draw."
            )
        return sorted(random.Random(f"{seed} validation").sample(free, count))

    def _chosen_earlier(self, record: Path) -> list[str] | None:
        """The validation images of the results and of this folder, where there are any."""
        here = self.root / "validation.json"
        ours = (
            sorted(image["file_name"] for image in read_coco(here)["images"])
            if here.exists()
            else None
        )
        if not record.exists():
            return ours
        recorded = read_json(record)
        if ours is not None and ours != recorded:
            raise ValueError(
                f"{here} has other validation images than {record}: they are of different runs. "
                "Name another folder for the output or for the results."
            )
        return recorded

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


def cell_name(arm: str, fraction: float, draw: int, seed: int) -> str:
    """The name of a cell: ``imagenet_10pct_draw0_seed1``."""
    return f"{arm}_{fraction:g}pct_draw{draw}_seed{seed}"


def run_name(arm: str, fraction: float, draw: int, seed: int, learning_rate: float) -> str:
    """The name of a cell's fine-tuning, a folder in the output's ``runs``."""
    return f"{cell_name(arm, fraction, draw, seed)}_lr{learning_rate:g}"


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
