"""Train, test and few-label draws: read from a file or made, then checked."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from detectron2_agssp.data.formats.records import Record
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.files import read_json

TEST_PART = 0.3
DRAW_PERCENTS = (1, 5, 10, 25)
DRAWS = 3
SEED = 0
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
    _report_duplicates(chosen, report)
    return chosen


def _report_duplicates(chosen: dict[str, list[Record]], report: Report) -> None:
    twins = defaultdict(list)
    for name in ("train", "test"):
        for record in chosen[name]:
            twins[record.digest].append((name, record.stem))
    for same in twins.values():
        if len(same) > 1:
            across = len({name for name, _ in same}) > 1
            text = " = ".join(f"{stem} ({name})" for name, stem in same)
            report.add("duplicate_across_splits" if across else "duplicate_within_split", text)
