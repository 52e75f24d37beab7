"""Which image an annotation belongs to, by their paths."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.files import user_path, windows_hint
from detectron2_agssp.io.images import IMAGE_SUFFIXES, ImageReader, list_files

IMAGE_FOLDERS = frozenset(("image", "images", "img", "imgs", "jpegimages"))
LABEL_FOLDERS = frozenset(("label", "labels", "lable", "annotation", "annotations", "xml"))
MASK_FOLDERS = frozenset(
    (
        "mask",
        "masks",
        "gt",
        "ground_truth",
        "groundtruth",
        "segmentationclass",
        "segmentationobject",
    )
)
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Pair:
    """An image with its annotations: ``name`` in splits and messages, ``file_name`` below the
    folder of images, ``place`` where it goes below ``images/<split>``."""

    name: str
    image: Path
    file_name: str
    place: str
    labels: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Source:
    """A folder of annotations, or a single file of them, that of its images, how these are read,
    and the report of what is wrong."""

    root: Path
    image_root: Path
    report: Report
    reader: ImageReader
    only: str = ""

    @classmethod
    def open(
        cls,
        root: str | Path,
        report: Report,
        images: str | Path | None = None,
        reader: ImageReader | None = None,
    ) -> "Source":
        """The folders, absolute; of the annotations, a single file may be given instead.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        path = user_path(root)
        only = path.name if path.is_file() else ""
        folder = checked_source(path.parent if only else path)
        image_root = folder if images is None else checked_source(images)
        return cls(folder, image_root, report, reader or ImageReader(), only)

    def files(self, suffixes: Collection[str]) -> list[str]:
        """Files below ``root``, relative, sorted; without hidden ones and circles of links."""
        if self.only:
            return [self.only]
        return self._list(self.root, suffixes)

    def images(self, folders_to_leave: Collection[str] = ()) -> list[str]:
        """Images below ``image_root`` that are in no folder of such a name."""
        paths = self._list(self.image_root, IMAGE_SUFFIXES)
        return [path for path in paths if not set(folders_of(path)) & set(folders_to_leave)]

    def _list(self, root: Path, suffixes: Collection[str]) -> list[str]:
        def left_out(text: str) -> None:
            if text not in self.report.problems["folder_left_out"]:
                self.report.add("folder_left_out", text)

        paths = list_files(root, suffixes, left_out)
        return [path for path in paths if "__MACOSX" not in path]

    def pairs(
        self,
        images: Sequence[str],
        labels: Sequence[str],
        *,
        several: bool = False,
        exact: bool = False,
        by_path: bool = False,
        may_lack: Callable[[str], bool] = lambda image: False,
    ) -> list[Pair]:
        """Every image with the annotations of its name, sorted; reports those without the other.

        Names that repeat from folder to folder are told apart by these folders, those such as
        ``images`` and ``labels`` aside: ``train/labels/1.txt`` is of ``train/images/1.jpg``.

        Args:
            images, labels: as :meth:`images` and :meth:`files` list them.
            several: an image may have several, and their names may go on, as in ``1_mask.png``.
            exact: folders must be the same, those of splits aside, also where a name is there only
                once.
            by_path: an image is named by its path, also where its own name is there only once.
            may_lack: whether an image needs no annotation; others are left out without one.
        """
        say = _naming([*images, *labels], by_path)
        by_stem: dict[str, list[str]] = defaultdict(list)
        for image in images:
            by_stem[stem_of(image)].append(image)
        found: dict[str, list[str]] = defaultdict(list)
        unsure: set[str] = set()
        # Those in the very folders of an image first: of two labels, they have it.
        for label in sorted(labels, key=lambda path: (len(folders_of(path)), path)):
            names = _shorter_names(stem_of(label)) if several else iter([stem_of(label)])
            stem = next((name for name in names if name in by_stem), None)
            best = [] if stem is None else _best(by_stem[stem], label, exact)
            if not best:
                self.report.add("annotation_without_image", say(label))
            elif len(best) > 1:
                self.report.add("same_name_twice", f"{label} (fits {' and '.join(best)})")
                unsure.update(best)
            elif found[best[0]] and not several:
                self.report.add("same_name_twice", f"{label} (used: {found[best[0]][0]})")
            else:
                found[best[0]].append(label)
        kept = []
        for image in images:
            if found.get(image) or (may_lack(image) and image not in unsure):
                kept.append(image)
            elif any(found.get(other) for other in by_stem[stem_of(image)]):
                self.report.add("same_name_twice", image)
            elif image not in unsure:
                self.report.add("image_without_annotation", say(image))
        return [
            replace(pair, labels=tuple(self.root / label for label in found.get(image, ())))
            for image, pair in self.named(kept, by_path=by_path).items()
        ]

    def named(self, images: Sequence[str], *, by_path: bool = False) -> dict[str, Pair]:
        """Image -> its pair, without annotations, in the order of names; the name is the image's
        own without suffix, or its path where the names repeat."""
        suffixes = {image: PurePosixPath(image).suffix for image in images}
        paths = {image: image.removesuffix(suffixes[image]) for image in images}
        stems = {image: stem_of(image) for image in images}
        if not by_path and _is_unique(stems.values()):
            names = stems
        else:
            names = paths if _is_unique(paths.values()) else {image: image for image in images}
        places = {image: "/".join((*_own_folders(image), stems[image])) for image in images}
        if names is stems or not _is_unique(places.values()):
            places = names
        return {
            image: Pair(
                names[image],
                self.image_root / image,
                image,
                places[image] if places[image] == image else places[image] + suffixes[image],
            )
            for image in sorted(images, key=names.__getitem__)
        }

    def resolve(self, names: Collection[str], images: Sequence[str]) -> dict[str, str]:
        """Paths of images as a file gives them, in either slash -> the images they are: those that
        share most of the path's last parts, where there is only one such; others are left out."""
        known = set(images)
        by_name: dict[str, list[str]] = defaultdict(list)
        for image in images:
            by_name[PurePosixPath(image).name].append(image)
        found = {}
        for name in names:
            parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
            path = "/".join(parts)
            if path in known:
                found[name] = path
                continue
            candidates = by_name.get(parts[-1], []) if parts else []
            shared = {image: _shared_tail(image.split("/"), parts) for image in candidates}
            best = [image for image in candidates if shared[image] == max(shared.values())]
            if len(best) == 1:
                found[name] = best[0]
                if shared[best[0]] < len(parts):
                    self.report.add("found_elsewhere", f"{name} ({best[0]})")
        return found


def checked_source(source: str | Path) -> Path:
    """The source folder, absolute. Raises FileNotFoundError if there is no such folder."""
    path = user_path(source)
    if not path.is_dir():
        raise FileNotFoundError(
            f"no source folder {str(source)!r}: give the folder of the unpacked data set "
            f"(datasets/README.md says where to get it).{windows_hint(source)}"
        )
    return path.resolve()


def require_pairs(
    pairs: Sequence[Pair],
    images: Sequence[str],
    labels: Sequence[str],
    root: Path,
    expected: str,
    labelled: bool = True,
) -> None:
    """Raises FileNotFoundError where there are no images or no annotations at all, ValueError where
    none belong together; ``expected`` is the layout."""
    if not images or not labels:
        raise FileNotFoundError(
            f"{root} holds {len(images)} images and {len(labels)} annotations; expected {expected}"
        )
    if labelled and not any(pair.labels for pair in pairs):
        raise ValueError(
            f"none of the {len(images)} images (such as {stem_of(images[0])!r}) has the name of "
            f"one of the {len(labels)} annotations (such as {stem_of(labels[0])!r}) in {root}; "
            f"expected {expected}"
        )


def stem_of(path: str) -> str:
    """The file's name without suffix."""
    return PurePosixPath(path).stem


def folders_of(path: str) -> list[str]:
    """The folders of a relative path, in small letters."""
    return [part.lower() for part in path.split("/")[:-1]]


def _own_folders(path: str) -> list[str]:
    """The folders of a path without those that say what kind of file is in them."""
    kinds = IMAGE_FOLDERS | LABEL_FOLDERS | MASK_FOLDERS
    return [part for part in path.split("/")[:-1] if part.lower() not in kinds]


def _best(candidates: Sequence[str], label: str, exact: bool) -> list[str]:
    """The images whose folders fit those of the label best: none, one, or several that do alike."""
    aside = SPLIT_FOLDERS if exact else ()
    wanted = [part.lower() for part in _own_folders(label) if part.lower() not in aside]
    scores = {}
    for image in candidates:
        there = [part.lower() for part in _own_folders(image) if part.lower() not in aside]
        fits = there == wanted if exact else set(there) <= set(wanted) or set(wanted) <= set(there)
        if fits:
            scores[image] = (len(set(there) & set(wanted)), -abs(len(there) - len(wanted)))
    if not scores and len(candidates) == 1 and not exact:
        # Folders of any other names, unless they say that one is of training and one of test.
        splits = [
            {SPLIT_FOLDERS[part] for part in folders_of(path) if part in SPLIT_FOLDERS}
            for path in (candidates[0], label)
        ]
        return [] if splits[0] != splits[1] and all(splits) else [candidates[0]]
    return [image for image, score in scores.items() if score == max(scores.values())]


def _shorter_names(stem: str) -> Iterator[str]:
    """A name, then without its last parts as long as these have letters: 1_crack_mask, 1_crack,
    1."""
    yield stem
    while (cut := max(stem.rfind("_"), stem.rfind("-"))) > 0:
        if not any(letter.isalpha() for letter in stem[cut:]):
            return
        stem = stem[:cut]
        yield stem


def _naming(paths: Sequence[str], by_path: bool) -> Callable[[str], str]:
    """What a file is called in messages: its stem, or its path without suffix where a file of the
    same kind has that stem, too."""
    counts = Counter((stem_of(path), PurePosixPath(path).suffix) for path in paths)

    def name(path: str) -> str:
        pure = PurePosixPath(path)
        alone = not by_path and counts[pure.stem, pure.suffix] == 1
        return pure.stem if alone else pure.with_suffix("").as_posix()

    return name


def _shared_tail(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _is_unique(names: Collection[str]) -> bool:
    return not names or Counter(names).most_common(1)[0][1] == 1
