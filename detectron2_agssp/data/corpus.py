"""One pretraining set of several image folders: sources, near-duplicates out, test images refused.

Nothing is copied: a corpus is a folder with a link to each source and a manifest
(:mod:`~detectron2_agssp.io.corpus_file`).
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2_agssp.data.corpus_scan import Scan
from detectron2_agssp.data.fingerprints import Distinct, most_similar
from detectron2_agssp.data.held_out import held_out_images
from detectron2_agssp.io.corpus_file import CORPUS_FILE, is_corpus
from detectron2_agssp.io.files import (
    TEMPORARY_PATTERN,
    atomic_path,
    atomic_write,
    escaped_name,
    named_when_full,
    only_run,
    user_path,
    windows_hint,
    write_json,
)
from detectron2_agssp.io.images import IMAGE_SUFFIXES, ImageReader, list_files, list_images
from detectron2_agssp.maps.manifest import json_line, sort_key
from detectron2_agssp.utils.naming import some_of

LEFT_OUT_FILE = "left_out.jsonl"
SETTINGS_FILE = "corpus.json"
REPORT_FILE = "report.html"
OWN_FILES = (CORPUS_FILE, LEFT_OUT_FILE, SETTINGS_FILE, REPORT_FILE, *Scan.FILES)
# Correlations of textures. An image that is left out for nothing costs little, one that is tested
# on afterwards costs what the test says; so the second is lower.
SIMILARITY = 0.9
HELD_OUT_SIMILARITY = 0.8
FULL = "What was read so far is kept: make room and run the same command again."


@dataclass
class Corpus:
    """What :func:`build_corpus` made.

    Attributes:
        root: its folder.
        sources: name -> folder of its images.
        counts: source -> images of the corpus.
        left_out: source -> reason ("unreadable", "duplicate", "held out") -> images.
        skipped_folders: folders that were not read, and why.
    """

    root: Path
    sources: dict[str, Path]
    counts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    skipped_folders: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def reasons(self) -> Counter[str]:
        """Reason -> images of all sources."""
        return sum(self.left_out.values(), Counter())


def build_corpus(
    roots: Sequence[str | Path],
    output: str | Path,
    *,
    held_out: Sequence[str | Path] = (),
    similarity: float = SIMILARITY,
    held_out_similarity: float = HELD_OUT_SIMILARITY,
    reader: ImageReader | None = None,
    progress: bool = True,
) -> Corpus:
    """Makes, or brings up to date, a corpus of several folders of images.

    An image that is like an earlier one (of its source or of one before it in ``roots``) is left
    out, and so is one that is like a held-out image, mirrored views included; which, and like what,
    is in ``left_out.jsonl``. A run that was interrupted goes on: each image is read once.

    Args:
        roots: folders of images, searched recursively. The name of a folder is its source;
            ``NAME=FOLDER`` gives another one.
        output: folder to write, outside of them.
        held_out: COCO json files, or folders, of labelled validation and test images.
        similarity: correlation of textures, in (0, 1], from which on two images are
            near-duplicates; see :mod:`~detectron2_agssp.data.fingerprints`. 1: the same file only.
        held_out_similarity: the same of an image and a held-out one.
        reader: how images are read.
        progress: show progress bars.

    Raises:
        FileNotFoundError: a folder or file does not exist.
        ValueError: two folders of the same source or in each other, a name that no source can
            have, a folder that holds something else, no image that can be used, or an argument out
            of its range.
        OSError: another run is writing to ``output``, or its disk is full.
    """
    for value in (similarity, held_out_similarity):
        if not 0 < value <= 1:
            raise ValueError(f"similarity must be in (0, 1], got {value}.")
    sources = named_sources(roots)
    output = user_path(output)
    _check_places(sources, output)
    with only_run(output), named_when_full(output, FULL):
        _check_content(output)
        for temporary in output.glob(TEMPORARY_PATTERN):
            temporary.unlink()
        corpus = Corpus(output, sources)
        scan = Scan(output, reader or ImageReader())
        references = held_out_images(held_out)
        scan.read(references, what="held-out images", progress=progress)
        left_out: list[dict] = []
        chosen = _choose(
            corpus, scan, references, left_out, similarity, held_out_similarity, progress
        )
        if not chosen:
            raise ValueError(
                f"No image of {some_of(sources.values())} can be used: "
                f"{dict(corpus.reasons) or 'there is none'}. The first: {left_out[:3]}"
            )
        _write(corpus, chosen, left_out)
        settings = {
            "sources": {name: str(path) for name, path in sources.items()},
            "held_out": [str(user_path(place).resolve()) for place in held_out],
            "similarity": similarity,
            "held_out_similarity": held_out_similarity,
            "images": corpus.counts,
            "left_out": {name: dict(reasons) for name, reasons in corpus.left_out.items()},
            "skipped_folders": corpus.skipped_folders,
        }
        write_json(output / SETTINGS_FILE, settings)
    return corpus


def named_sources(roots: Iterable[str | Path]) -> dict[str, Path]:
    """Source -> absolute folder, in the order given; see :func:`build_corpus`.

    Raises:
        FileNotFoundError, ValueError: no such folder; the same name twice, or one that none can be.
    """
    sources: dict[str, Path] = {}
    for root in roots:
        given = os.fspath(root)
        name, equals, place = given.partition("=")
        if not equals or user_path(given).is_dir():
            name, place = "", given
        if not user_path(place).is_dir():
            raise FileNotFoundError(f"{place!r} is not a folder of images.{windows_hint(place)}")
        path = Path(os.path.abspath(user_path(place)))
        name = name or path.name
        if not name or name.startswith(".") or {"/", "\\", "\0"} & set(name) or name in OWN_FILES:
            raise ValueError(
                f"{given!r} would be the source {name!r}, which is no name of a folder in the "
                "corpus. Write NAME=FOLDER."
            )
        if escaped_name(name) != name:
            raise ValueError(f"The name of {escaped_name(given)} is not UTF-8. Write NAME=FOLDER.")
        if name in sources:
            raise ValueError(
                f"{sources[name]} and {path} would both be the source {name!r}. Give one of them "
                f"another name: {path.parent.name or 'other'}_{name}={place}."
            )
        sources[name] = path
    if not sources:
        raise ValueError("A corpus needs at least one folder of images, got none.")
    return sources


def _check_places(sources: Mapping[str, Path], output: Path) -> None:
    """No folder within another: images would be in two sources, or pictures taken for images."""
    real = {name: path.resolve() for name, path in sources.items()}
    out = output.resolve()
    for name, path in real.items():
        if out == path or path in out.parents or out in path.parents:
            raise ValueError(
                f"The output {output} and the source {name!r} ({sources[name]}) lie in each other. "
                "Name an output outside of the images."
            )
        for other, folder in real.items():
            if other != name and (folder == path or folder in path.parents):
                raise ValueError(
                    f"The source {name!r} ({sources[name]}) lies in the source {other!r} "
                    f"({sources[other]}): its images would be in both. Leave one of them out."
                )


def _check_content(output: Path) -> None:
    """Refuses a folder of something else: only links and a corpus' own files are replaced."""
    others = [
        entry.name
        for entry in output.iterdir()
        if not entry.is_symlink()
        and entry.name not in OWN_FILES
        and not entry.match(TEMPORARY_PATTERN)
    ]
    links = [entry.name for entry in output.iterdir() if entry.is_symlink()]
    if others or (links and not (output / Scan.FILES[0]).exists()):
        raise ValueError(
            f"{output} holds files of something else ({some_of(sorted(others or links))}). Name a "
            "folder that is empty or not there yet."
        )


def _choose(
    corpus: Corpus,
    scan: Scan,
    references: Sequence[str],
    left_out: list[dict],
    similarity: float,
    held_out_similarity: float,
    progress: bool,
) -> list[dict]:
    """The manifest's entries; what is not among them goes to ``left_out`` and is counted."""
    listed: dict[str, list[str]] = {}
    for name, root in corpus.sources.items():
        images = list_images_of(root, corpus.skipped_folders)
        listed[name] = images
        scan.read([f"{root}/{image}" for image in images], what=name, progress=progress)

    kept_out = _HeldOut(scan, references, held_out_similarity)
    distinct = Distinct(sum(map(len, listed.values())), similarity)
    digests: dict[str, str] = {}
    names: list[str] = []
    chosen = []

    def leave_out(source: str, kind: str, image: str, **why) -> None:
        left_out.append({"image": escaped_name(image), "reason": kind, **why})
        corpus.left_out[source][kind] += 1

    for source, root in corpus.sources.items():
        corpus.left_out[source] = Counter()
        corpus.counts[source] = 0
        prefix = len(f"{root}/")
        paths = [f"{root}/{image}" for image in listed[source]]
        for path in paths:
            if "reason" in scan[path]:
                image = f"{source}/{path[prefix:]}"
                leave_out(source, "unreadable", image, detail=scan[path]["reason"])
        for part in scan.usable(paths):
            views = scan.fingerprints([scan[path]["row"] for path in part])
            refused = kept_out(part, views)
            numbers, rows = [], []
            for row, path in enumerate(part):
                image, digest = f"{source}/{path[prefix:]}", scan[path]["digest"]
                if row in refused:
                    leave_out(source, "held out", image, like=refused[row][0], r=refused[row][1])
                elif digest in digests:
                    leave_out(source, "duplicate", image, like=digests[digest], r=1.0)
                else:
                    digests[digest] = image
                    names.append(image)
                    numbers.append(len(names) - 1)
                    rows.append(row)
            dropped = set()
            if similarity < 1:
                for number, like, value in distinct.add(numbers, views[rows]):
                    leave_out(
                        source, "duplicate", names[number], like=names[like], r=round(value, 3)
                    )
                    dropped.add(number)
            for number, row in zip(numbers, rows, strict=True):
                if number not in dropped:
                    facts = scan[part[row]]
                    keys = ("height", "width", "brightness")
                    chosen.append(
                        {"image": names[number], "source": source, **{k: facts[k] for k in keys}}
                    )
                    corpus.counts[source] += 1
    return chosen


class _HeldOut:
    """Says which images are held-out ones, or nearly: row -> (held-out image, correlation)."""

    def __init__(self, scan: Scan, references: Sequence[str], similarity: float):
        self.scan, self.similarity = scan, similarity
        unreadable = [path for path in references if "reason" in scan[path]]
        if unreadable:
            raise ValueError(
                f"{len(unreadable)} held-out images cannot be read, so that nothing can be compared"
                f" with them: {some_of(unreadable)} ({scan[unreadable[0]]['reason']})."
            )
        self.references = references
        self.digests = {scan[path]["digest"]: path for path in references}
        views = scan.fingerprints([scan[path]["row"] for path in references])
        self.known = views[:, 0]

    def __call__(self, paths: Sequence[str], views) -> dict[int, tuple[str, float]]:
        if not len(self.references):
            return {}
        similar, index = most_similar(views, self.known)
        found = {
            row: (self.references[index[row]], round(float(similar[row]), 3))
            for row in range(len(paths))
            if similar[row] >= self.similarity
        }
        for row, path in enumerate(paths):
            if (digest := self.scan[path]["digest"]) in self.digests:
                found[row] = (self.digests[digest], 1.0)
        return found


def list_images_of(root: Path, skipped: list[str]) -> list[str]:
    """The images below a folder; folders that were left out are named in ``skipped``."""
    if is_corpus(root):
        return list(list_images(root))
    return list(list_files(root, IMAGE_SUFFIXES, skipped.append))


def _write(corpus: Corpus, chosen: list[dict], left_out: list[dict]) -> None:
    """Links first: a manifest never lists what is not there."""
    for entry in corpus.root.iterdir():
        if entry.is_symlink() and entry.name not in corpus.sources:
            entry.unlink()
    for name, root in corpus.sources.items():
        link = corpus.root / name
        if not link.is_symlink() or os.readlink(link) != str(root):
            with atomic_path(link) as temporary:
                temporary.symlink_to(root)
    for name, entries in ((LEFT_OUT_FILE, left_out), (CORPUS_FILE, chosen)):
        ordered = sorted(entries, key=lambda entry: sort_key(entry["image"]))
        with atomic_write(corpus.root / name) as file:
            file.writelines(map(json_line, ordered))
