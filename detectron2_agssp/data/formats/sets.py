"""Published data sets: what ``datasets/prepare_<set>.py`` describe, and how all of them are run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2_agssp.data.formats.cli import build_parser, run
from detectron2_agssp.data.formats.pairing import Source, require_pairs
from detectron2_agssp.data.formats.pipeline import prepare_dataset
from detectron2_agssp.data.formats.records import Labels, Record, read_records
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.data.formats.splits import folder_parts, listed_parts
from detectron2_agssp.data.labels import FORMATS, read_source


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A published data set.

    Attributes:
        name: its folder of ``$DETECTRON2_DATASETS``.
        title: what it shows.
        page: where it is described and downloaded; a page, not a mirror.
        licence: of the authors.
        layout: what its folder holds.
        images: how many are published; the least and the most where sources differ.
        read: reads the folder; called with it and ``options``.
        options: of ``read``; "min_area" may be given on the command line.
        split: "folders" takes the authors' train and test folders; by default both are drawn.
        lists: files of the authors' train and test images, taken where the folder holds them.
        labelled: whether there are boxes; else only the images are prepared, to pretrain on.
        any_part: any number of images will do.
        warning: what its user has to know.
    """

    name: str
    title: str
    page: str
    licence: str
    layout: str
    images: int | tuple[int, int]
    read: Callable[..., Labels]
    options: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    lists: Sequence[str] = ()
    labelled: bool = True
    any_part: bool = False
    warning: str = ""

    @property
    def description(self) -> str:
        """For a help."""
        return "\n".join(
            (
                f"Prepares {self.title} for Detectron2.",
                "",
                f"from:    {self.page}",
                f"licence: {self.licence}",
                f"images:  {self.published}",
                f"layout:  {self.layout}",
                *([f"\nWARNING: {self.warning}"] if self.warning else ()),
            )
        )

    @property
    def published(self) -> str:
        """How many images are published."""
        return str(self.images) if isinstance(self.images, int) else "{} to {}".format(*self.images)


def prepare_published(
    published: PublishedSet,
    source: str | Path,
    output: str | Path | None = None,
    *,
    partial: bool = False,
    format: str | None = None,
    **options: Any,
) -> Report:
    """Prepares a published set; other arguments, result and errors as of
    :func:`~.pipeline.prepare_dataset`.

    Args:
        published: the set.
        source: its folder.
        output: folder to write.
        partial: fewer or more images than published will do.
        format: one of ``data.FORMATS``, where the labels are in another one than the authors'.
        options: ``min_area``, where the set has it.

    Raises:
        ValueError: images are missing, or are too many; nothing has been written.
    """
    reading = {key: options.pop(key, value) for key, value in published.options.items()}

    def read(folder: Source) -> Labels:
        if published.warning:
            folder.report.notes.append(f"WARNING: {published.warning}")
        labels = (
            published.read(folder, **reading) if format is None else read_source(folder, format)
        )
        _check_count(published, labels, folder.report, partial or published.any_part)
        return labels

    def parts(records: Sequence[Record], folder: Source) -> dict[str, list[Record]]:
        lists = [folder.root / name for name in published.lists]
        if lists and all(path.is_file() for path in lists):
            listed = listed_parts(lists, records, folder)
            return {
                name: listed[path.stem] for name, path in zip(("train", "test"), lists, strict=True)
            }
        if published.split != "folders":
            return {}
        found = folder_parts(records, folder.report)
        validation = found.pop("val", [])
        found.setdefault("test", validation)
        if found["test"] is not validation:
            found.setdefault("train", []).extend(validation)
        return found

    return prepare_dataset(
        published.name,
        read,
        source,
        output=output,
        parts=parts,
        labelled=published.labelled,
        **options,
    )


def main(published: PublishedSet) -> None:
    """The command line of a script."""
    parser = build_parser(published.description, published.name)
    parser.add_argument(
        "--partial", action="store_true", help="prepare what is there of the published images"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="F",
        help=f"the folder has its labels in another format: {', '.join(FORMATS)}",
    )
    if "min_area" in published.options:
        parser.add_argument(
            "--min-area",
            type=int,
            default=published.options["min_area"],
            metavar="N",
            help="parts of a mask with fewer pixels make no box (default: %(default)s)",
        )
    run(lambda **arguments: prepare_published(published, **arguments), parser)


def read_unlabelled(source: Source, *, name: str = "") -> Labels:
    """All images, or those whose names begin so, without boxes."""
    images = [path for path in source.images() if path.split("/")[-1].startswith(name)]
    pairs = source.named(images).values()
    require_pairs([*pairs], images, images, source.root, f"images {name}*", labelled=False)
    return Labels(read_records(pairs, lambda pair, width, height: (), source), [])


def _check_count(published: PublishedSet, labels: Labels, report: Report, partial: bool) -> None:
    images = published.images
    low, high = (images, images) if isinstance(images, int) else images
    count = len(labels.records)
    if low <= count <= high:
        return
    text = f"{count} usable images, {published.published} are published"
    if partial:
        report.notes.append(text)
        return
    missing = f"{low - count} are missing" if count < low else f"{count - high} are too many"
    raise ValueError(
        f"{report.source}: {text}, so {missing}. Expected is {published.layout}, from "
        f"{published.page}. --partial prepares what is there."
        + "".join(f"\n{line}" for line in report.problem_lines())
    )
