"""Train, validation, test and few-label draws: read from a file or made, then checked."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from detectron2_agssp.data.formats.pairing import SPLIT_FOLDERS, Source, folders_of
from detectron2_agssp.data.formats.records import Record
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.files import read_json, read_text

TEST_PART = 0.3
DRAW_PERCENTS = (1, 5, 10, 25)
DRAWS = 3
SEED = 0
_Key = TypeVar("_Key", bound=Hashable)
_SPLIT_NAME = re.compile(r"train|test|train_\d+pct_draw\d+")


def read_splits(path: Path, report: Report) -> dict[str, list[str]]:
    """The splits of a json file ``{"train": [stem, ...], "test": [...], ...}``, each sorted.

    Besides ``train`` and ``test`` it may hold ``train_<P>pct_draw<K>``; other keys are noted and
    ignored. Raises FileNotFoundError if there is no such file, ValueError if it is not such json.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no splits file {str(path)!r}: leave it out to have splits drawn")
    content = read_json(path)
    if not isinstance(content, dict) or not {"train", "test"} <= content.keys():
        raise ValueError(f"{path} needs the keys 'train' and 'test', each a list of image stems")
    splits = {}
    for name, stems in content.items():
        if not _SPLIT_NAME.fullmatch(name):
            if name != "seed":
                report.notes.append(f"ignored the key {name!r} of {path}")
        elif not isinstance(stems, list) or not all(isinstance(stem, str) for stem in stems):
            raise ValueError(f"{path}: {name!r} is not a list of image stems")
        else:
            splits[name] = sorted(set(stems))
    report.notes.append(f"splits of {path}")
    return splits


def make_splits(records: Sequence[Record], report: Report) -> dict[str, list[str]]:
    """Draws train and test (70 : 30) class by class, and few-label draws from train.

    The same records always give the same splits. ``train_<P>pct_draw<K>`` holds P % of each
    class, one image at least, and none without boxes; draw K of a small P is part of draw K of a
    larger one. Images with the same pixels stay on the same side.
    """
    twins = defaultdict(list)
    for record in sorted(records, key=lambda record: record.stem):
        twins[record.digest].append(record)
    groups = defaultdict(list)
    for same in twins.values():
        groups[same[0].group or ""].append([record.stem for record in same])

    splits: dict[str, list[str]] = defaultdict(list, train=[], test=[])
    for group, members in sorted(groups.items()):
        # One generator per purpose, seeded with text: what one class holds moves no other.
        random.Random(f"{SEED} split {group}").shuffle(members)
        n_test = round(TEST_PART * len(members))
        splits["test"] += chain.from_iterable(members[:n_test])
        train = list(chain.from_iterable(members[n_test:]))
        splits["train"] += train
        for draw in range(DRAWS if group else 0):
            random.Random(f"{SEED} draw {draw} {group}").shuffle(train)
            for percent in DRAW_PERCENTS:
                count = max(1, round(percent / 100 * len(train)))
                splits[f"train_{percent}pct_draw{draw}"] += train[:count]
    report.notes.append(f"splits drawn with seed {SEED}")
    return {name: sorted(stems) for name, stems in splits.items()}


def check_splits(
    splits: dict[str, list[str]], records: Sequence[Record], report: Report
) -> dict[str, list[Record]]:
    """The records of every split, after checking that nothing of test is in train.

    Raises ValueError if a stem is in both, if a draw is not part of train, or if no image of a
    split exists. Missing stems, unused images and duplicate images are reported.
    """
    train, test = set(splits["train"]), set(splits["test"])
    if train & test:
        raise ValueError(
            f"{len(train & test)} stems are both in train and in test, such as "
            f"{min(train & test)!r}: take them out of one"
        )
    by_stem = {record.stem: record for record in records}
    chosen = {}
    for name, stems in splits.items():
        strangers = set(stems) - train
        if name != "test" and strangers:
            raise ValueError(
                f"{name} holds {len(strangers)} stems that are not in train, such as "
                f"{min(strangers)!r}: a draw has to be part of train"
            )
        chosen[name] = [by_stem[stem] for stem in stems if stem in by_stem]
        if not chosen[name]:
            raise ValueError(
                f"{name} is empty: none of its {len(stems)} stems ({', '.join(stems[:3])}) has an "
                f"image; the {len(by_stem)} images have stems such as {min(by_stem)!r}"
            )
    for stem in sorted((train | test) - by_stem.keys()):
        report.add("split_stem_missing", stem)
    for stem in sorted(by_stem.keys() - train - test):
        report.add("image_in_no_split", stem)
    _report_duplicates({name: chosen[name] for name in ("train", "test")}, report)
    return chosen


def _report_duplicates(chosen: Mapping[str, list[Record]], report: Report) -> None:
    twins = defaultdict(list)
    for name, records in chosen.items():
        for record in records:
            twins[record.digest].append((name, record.stem))
    for same in twins.values():
        if len(same) > 1:
            across = len({name for name, _ in same}) > 1
            text = " = ".join(f"{stem} ({name})" for name, stem in same)
            report.add("duplicate_across_splits" if across else "duplicate_within_split", text)


# ---- parts of labels of any format


def draw_balanced(classes: Mapping[_Key, Collection], share: float, seed: str) -> set[_Key]:
    """Draws a share of the images of each class.

    An image counts for its rarest class, and images without boxes are a class of their own; each
    keeps an image at least that is not drawn. The same images give the same draw.

    Args:
        classes: image -> the classes of its boxes, in an order that does not change.
        share: in [0, 1].
        seed: of the draw, any text.
    """
    counts = Counter(category for some in classes.values() for category in set(some))
    groups = defaultdict(list)
    for image, some in classes.items():
        rarest = min(some, key=lambda name: (counts[name], str(name)), default="")
        groups[str(rarest)].append(image)
    drawn: set[_Key] = set()
    owed = 0.0
    for name, members in sorted(groups.items()):
        random.Random(f"{seed} {name}").shuffle(members)
        # What a small class could not give, the next ones do.
        owed += share * len(members)
        count = min(round(owed), len(members) - 1)
        owed -= count
        drawn.update(members[:count])
    return drawn


def draw_parts(
    records: Sequence[Record], shares: Mapping[str, float], seed: int, report: Report
) -> dict[str, list[Record]]:
    """Draws parts by class, and "train" of what is left; images with the same pixels stay together.

    Args:
        records: the images.
        shares: part -> its share of all images.
        seed: of the draw.
        report: notes the seed.

    Raises:
        ValueError: a share is not in (0, 1), they leave nothing to train on, or a part is empty.
    """
    if not all(0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"shares must be above 0, and below 1 together; got {given}")
    twins = defaultdict(list)
    for record in records:
        twins[record.digest].append(record)
    left, free = dict(twins), 1.0
    parts: dict[str, list[Record]] = {"train": []}
    for name, share in shares.items():
        classes = {
            digest: {box.category for record in same for box in record.boxes}
            for digest, same in left.items()
        }
        drawn = draw_balanced(classes, share / free, f"{seed} {name}")
        parts[name] = [record for digest in left if digest in drawn for record in left[digest]]
        if not drawn:
            raise ValueError(
                f"{name} would have no image: {share:g} of {len(records)} images, an image of each "
                "class left to train on. Take a larger share, or lists of images."
            )
        left = {digest: same for digest, same in left.items() if digest not in drawn}
        free -= share
    parts["train"] = list(chain.from_iterable(left.values()))
    report.notes.append(f"parts drawn with seed {seed}")
    return _checked_parts(parts, report)


def folder_parts(records: Sequence[Record], report: Report) -> dict[str, list[Record]]:
    """The parts that folders such as ``train``, ``valid`` or ``Testing`` name.

    Raises:
        ValueError: no image is in such a folder.
    """
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        names = [
            SPLIT_FOLDERS[part] for part in folders_of(record.file_name) if part in SPLIT_FOLDERS
        ]
        if names:
            parts[names[-1]].append(record)
        else:
            report.add("image_in_no_split", record.stem)
    if not parts:
        raise ValueError(
            f"no image of {report.source} is in a folder of the name of a split "
            f"({', '.join(SPLIT_FOLDERS)})"
        )
    return _checked_parts(parts, report)


def listed_parts(
    paths: Sequence[Path], records: Sequence[Record], source: Source
) -> dict[str, list[Record]]:
    """The parts that lists name: text files with a path, name or stem of an image per line, each
    the part of its own name (``train.txt``), or a json of parts and lists.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is none, names no image, or an image is in two parts.
    """
    lists: dict[str, list[str]] = {}
    for path in paths:
        if path.suffix.lower() != ".json":
            lines = read_text(path).splitlines()
            lists[path.stem] = [line.strip() for line in lines if line.strip()]
            continue
        content = read_json(path)
        lists |= {
            name: names
            for name, names in (content.items() if isinstance(content, dict) else ())
            if isinstance(names, list) and all(isinstance(text, str) for text in names)
        }
    report = source.report
    by_name = {record.stem: record for record in records}
    by_file = {record.file_name: record for record in records}
    parts: dict[str, list[Record]] = {}
    used: dict[str, str] = {}
    for part, names in lists.items():
        others = [name for name in dict.fromkeys(names) if name not in by_name]
        found = source.resolve(others, list(by_file))
        stems = [
            by_file[found[name]].stem if name in found else name for name in dict.fromkeys(names)
        ]
        for stem in stems:
            if stem not in by_name:
                report.add("split_stem_missing", f"{stem} ({part})")
        parts[part] = [by_name[stem] for stem in dict.fromkeys(stems) if stem in by_name]
        for record in parts[part]:
            if record.stem in used:
                raise ValueError(
                    f"{record.stem} is both in {used[record.stem]} and in {part}: take it out of "
                    "one"
                )
            used[record.stem] = part
        if not parts[part]:
            raise ValueError(
                f"{part} is empty: none of its {len(names)} images is in {source.root}"
            )
    if not parts:
        raise ValueError(f"{', '.join(map(str, paths))}: no list of images in it")
    for stem in sorted(by_name.keys() - used.keys()):
        report.add("image_in_no_split", stem)
    return _checked_parts(parts, report)


def _checked_parts(parts: Mapping[str, list[Record]], report: Report) -> dict[str, list[Record]]:
    """Those that are not empty, in the order of their names; reports images that are twice."""
    chosen = {name: parts[name] for name in sorted(parts) if parts[name]}
    _report_duplicates(chosen, report)
    return chosen
