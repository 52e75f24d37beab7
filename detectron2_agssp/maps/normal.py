"""Which images of a folder are normal: what the config names, and a sample."""

import fnmatch
import os
from collections.abc import Iterable, Iterator

from detectron2.utils.file_io import PathManager

from detectron2_agssp.io.corpus_file import is_corpus
from detectron2_agssp.io.images import list_images
from detectron2_agssp.io.tar_shards import PREFIX as TAR_PREFIX
from detectron2_agssp.maps.image_stream import sample_paths, sample_paths_by_source, source_of


def normal_images(cfg, image_root: str) -> list[str]:
    """The images that ``AGSSP.SCORER.NORMAL_IMAGES`` and ``NORMAL_SAMPLE`` name, as paths relative
    to ``image_root`` or absolute ones.

    An entry of NORMAL_IMAGES is an image, a folder of images (searched recursively), or a pattern
    in which ``*`` stands for anything (folders too), relative to the image folder or absolute; or
    a ``.txt`` file of such entries, one a line, itself below the image folder or relative to the
    working folder.

    Returns:
        each image once, in the order of the entries, then of the sample, which is of each source
        where ``AGSSP.SCORER.PER_SOURCE`` is on.

    Raises:
        ValueError: neither key names any and CALM_WINDOWS asks for none, an entry matches no image,
            or a list does not exist.
    """
    settings = cfg.AGSSP.SCORER
    entries = list(_expanded(settings.NORMAL_IMAGES, image_root))
    if not entries and settings.NORMAL_SAMPLE < 1 and settings.CALM_WINDOWS < 1:
        raise ValueError(
            f"The scorer {settings.NAME!r} needs a few normal images, but "
            f"AGSSP.SCORER.NORMAL_IMAGES is {tuple(settings.NORMAL_IMAGES)} and NORMAL_SAMPLE "
            f"{settings.NORMAL_SAMPLE}. List some in NORMAL_IMAGES (paths, folders or patterns "
            "below the image folder, or a .txt file of them), or set NORMAL_SAMPLE to take so many "
            "at random, where nearly all images are normal, or CALM_WINDOWS to take so many calm "
            "parts of images, where most have defects; or choose AGSSP.SCORER.NAME mahalanobis or "
            "mutual, which need none."
        )
    chosen: dict[str, None] = {}
    for entry in entries:
        matches = _matches(entry, image_root)
        if not matches:
            raise ValueError(
                f"AGSSP.SCORER.NORMAL_IMAGES has {entry!r}, which matches no image in {image_root}."
            )
        chosen.update(dict.fromkeys(_relative(match, image_root) for match in matches))
    if settings.NORMAL_SAMPLE > 0:
        count, seed = settings.NORMAL_SAMPLE, settings.SEED
        if settings.PER_SOURCE:
            sampled = sample_paths_by_source(list_images(image_root), count, seed, image_root)
        else:
            sampled = {"": sample_paths(list_images(image_root), count, seed)}
        for sample in sampled.values():
            chosen.update(dict.fromkeys(sample))
    return list(chosen)


def normal_images_by_source(cfg, image_root: str) -> dict[str, list[str]]:
    """:func:`normal_images` by their sources; none of a source that has none.

    Raises:
        ValueError: as there, or one lies outside the image folder and so has no source.
    """
    by_source: dict[str, list[str]] = {}
    for image in normal_images(cfg, image_root):
        if os.path.isabs(image):
            raise ValueError(
                f"AGSSP.SCORER.NORMAL_IMAGES has {image!r}, which is not below {image_root} and so "
                "of no source. Put it into a source's folder, or set AGSSP.SCORER.PER_SOURCE False."
            )
        by_source.setdefault(source_of(image, image_root), []).append(image)
    return by_source


def _expanded(entries: Iterable[str], image_root: str) -> Iterator[str]:
    for entry in entries:
        if not entry.endswith(".txt"):
            yield entry
            continue
        places = (os.path.join(image_root, entry), entry)
        place = next(filter(os.path.isfile, places), None)
        if place is None:
            raise ValueError(
                f"AGSSP.SCORER.NORMAL_IMAGES names {entry!r}, which exists neither in {image_root} "
                "nor in the working folder."
            )
        # "-sig": Windows' editors put a mark at the beginning.
        with open(place, encoding="utf-8-sig") as file:
            yield from (line.strip() for line in file if line.strip())


def _matches(entry: str, image_root: str) -> list[str]:
    path = os.path.join(image_root, entry)
    in_archives = image_root.startswith(TAR_PREFIX) and "*" not in entry
    if os.path.isdir(path) or (in_archives and PathManager.isdir(path)):
        return [os.path.join(entry, image) for image in _images_below(image_root, entry)]
    if "*" not in entry:
        return [entry] if os.path.isfile(path) or "://" in image_root else []
    folder = entry.partition("*")[0].rpartition("/")[0]
    # Of fnmatch's special letters only "*": file names have brackets.
    pattern = entry.removeprefix(folder).lstrip("/").replace("[", "[[]").replace("?", "[?]")
    return [
        os.path.join(folder, image)
        for image in _images_below(image_root, folder)
        if fnmatch.fnmatchcase(image, pattern)
    ]


def _images_below(image_root: str, folder: str) -> Iterator[str]:
    """The images of a folder below ``image_root``, or elsewhere, by their paths in it."""
    path = os.path.join(image_root, folder)
    is_listed = is_corpus(image_root) or image_root.startswith(TAR_PREFIX)
    if is_listed and not os.path.isabs(folder):
        # Not what is behind the links of a corpus: some of it was left out.
        inside = os.path.normpath(folder)
        prefix = "" if inside == "." else f"{inside}/"
        names = (name for name in list_images(image_root) if name.startswith(prefix))
        return (name[len(prefix) :] for name in names)
    return list_images(path) if os.path.isdir(path) else iter(())


def _relative(path: str, image_root: str) -> str:
    """As :func:`list_images` has it, if it is below ``image_root``: each image has one name."""
    if "://" in image_root:
        return path
    root, full = os.path.normpath(image_root), os.path.normpath(os.path.join(image_root, path))
    return os.path.relpath(full, root) if full.startswith(f"{root}/") else full
