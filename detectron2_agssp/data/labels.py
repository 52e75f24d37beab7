"""Labels of any format, read as COCO, split, and written where they are registered on import."""

import importlib
import inspect
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from detectron2_agssp.io.coco import write_coco
from detectron2_agssp.io.files import datasets_root, read_json, user_path
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    from detectron2_agssp.data.formats.pairing import Source
    from detectron2_agssp.data.formats.records import Labels
    from detectron2_agssp.data.formats.report import Report

logger = logging.getLogger(__name__)

# Module of data.formats and reader, imported when a format is first read.
_READERS = {
    "coco": ("coco", "read_coco_labels"),
    "yolo": ("yolo", "read_yolo"),
    "voc": ("voc", "read_voc"),
    "masks": ("masks", "read_masks"),
    "mvtec": ("masks", "read_mvtec"),
    "rle": ("rle", "read_rle"),
}
FORMATS = tuple(_READERS)
# Below $DETECTRON2_DATASETS.
LABELS_FOLDER = "agssp_labels"


def read_labels(
    root: str | Path,
    format: str,
    *,
    images: str | Path | None = None,
    classes: Collection[str] | None = None,
    report: "Report | None" = None,
    reader: ImageReader | None = None,
    **options: Any,
) -> dict:
    """Labels of one of :data:`FORMATS` as a COCO dict.

    What is wrong with a single file leaves out that file, or that box, and is counted and named: in
    ``report``, in ``info["problems"]``, and, without a ``report``, in the log.

    Args:
        root: the folder of the labels; for "coco" and "rle" it may be the file.
        format: one of :data:`FORMATS`; the readers in ``data.formats`` say what each is.
        images: folder of the images, if they are not in ``root``.
        classes: in the order of their ids; by default those that the labels name.
        report: gets what is wrong.
        reader: how images are read; None is ``ImageReader()``.
        options: of the format's reader: ``one_based`` (voc), ``values``, ``codes``, ``threshold``
            (masks), ``min_area`` (masks, mvtec, rle).

    Returns:
        a COCO dict with ids from 1 and file names relative to ``info["image_root"]``. Boxes are
        XYWH in pixels as :func:`~detectron2_agssp.io.images.read_image` reads them, cut at the
        image's border; segmentations are kept, and made of masks and run lengths.

    Raises:
        FileNotFoundError: no such folder, or nothing of the format in it.
        ValueError: no such format or option, or no image can be used.
    """
    source, labels = open_labels(root, format, images, classes, report, reader, **options)
    if report is None:
        for line in source.report.problem_lines():
            logger.warning("%s: %s", source.root, line)
    return _as_coco(source, labels)


def open_labels(
    root: str | Path,
    format: str,
    images: str | Path | None = None,
    classes: Collection[str] | None = None,
    report: "Report | None" = None,
    reader: ImageReader | None = None,
    **options: Any,
) -> "tuple[Source, Labels]":
    """The folders and what is read from them; arguments and errors as of :func:`read_labels`."""
    from detectron2_agssp.data.formats.pairing import Source
    from detectron2_agssp.data.formats.report import Report

    report = Report(format, str(user_path(root).resolve())) if report is None else report
    source = Source.open(root, report, images, reader)
    labels = read_source(source, format, classes, **options)
    if not labels.records:
        lines = "; ".join(report.problem_lines())
        raise ValueError(f"no image in {source.image_root} can be used; {lines}")
    return source, labels


def read_source(
    source: "Source", format: str, classes: Collection[str] | None = None, **options: Any
) -> "Labels":
    """What the reader of a format makes of opened folders; errors as of :func:`read_labels`."""
    if format not in FORMATS:
        raise ValueError(
            f"labels are {', '.join(FORMATS)}; got {format!r}.{did_you_mean(format, FORMATS)}"
        )
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"a class is named twice: {', '.join(classes)}")
    module, name = _READERS[format]
    read = getattr(importlib.import_module(f"detectron2_agssp.data.formats.{module}"), name)
    known = list(inspect.signature(read).parameters)[2:]
    for option in options.keys() - known:
        raise ValueError(
            f"labels of the format {format} have no option {option}; they have "
            f"{', '.join(known) or 'none'}"
        )
    return read(source, classes, **options)


def write_labels(
    root: str | Path,
    output: str | Path,
    format: str,
    *,
    shares: dict[str, float] | None = None,
    split: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> "tuple[dict[str, Path], Report]":
    """Reads labels and writes them as COCO, one file or one for each part.

    Args:
        root, format: as of :func:`read_labels`.
        output: the json; parts are beside it, as ``<name>_train.json``.
        shares: part -> share of the images of each class that are drawn for it; the rest are
            "train".
        split: instead of ``shares``: "folders", an image's part is the folder ``train``, ``val`` or
            ``test`` that it is in; or lists of images, see :func:`~.formats.splits.listed_parts`.
        seed: of the draw.
        options: of :func:`read_labels`.

    Returns:
        part ("" without parts) -> file; and the report.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_labels`; and parts that cannot be.
    """
    from detectron2_agssp.data.formats.splits import draw_parts, folder_parts, listed_parts

    output = user_path(output)
    if output.suffix.lower() != ".json":
        raise ValueError(f"the labels are written to a json file, got {str(output)!r}")
    source, labels = open_labels(root, format, **options)
    report = source.report
    if list(split) == ["folders"]:
        parts = folder_parts(labels.records, report)
    elif split:
        parts = listed_parts([user_path(path) for path in split], labels.records, source)
    else:
        parts = draw_parts(labels.records, shares, seed, report) if shares else {}
    files = {}
    for name, records in (parts or {"": labels.records}).items():
        categories = [[box.category for box in record.boxes] for record in records]
        report.count_split(name or "all", categories, labels.classes)
    for name, records in (parts or {"": labels.records}).items():
        path = output.with_name(f"{output.stem}_{name}.json") if name else output
        stems = {record.stem for record in records}
        write_coco(path, _as_coco(source, labels, stems))
        files[name] = path
    return files, report


def _as_coco(source: "Source", labels: "Labels", stems: Collection[str] | None = None) -> dict:
    from detectron2_agssp.data.formats.records import records_as_coco

    records = labels.records
    image_ids = {record.stem: number for number, record in enumerate(records, start=1)}
    chosen = [record for record in records if stems is None or record.stem in stems]
    coco = records_as_coco(chosen, labels.classes, lambda record: record.file_name, image_ids)
    problems = {kind: cases for kind, cases in source.report.problems.items() if cases}
    coco["info"] = {"image_root": str(source.image_root), "problems": problems}
    return coco


def registered_name(path: str | Path) -> str | None:
    """The name that a json of labels is registered by on import; None where it is not."""
    folder = (datasets_root() / LABELS_FOLDER).resolve()
    path = user_path(path).resolve()
    if path.suffix != ".json" or not path.is_relative_to(folder):
        return None
    is_listed = len(path.relative_to(folder).parts) <= 2
    return _name_below(folder, path) if is_listed else None


def _name_below(folder: Path, path: Path) -> str:
    return "_".join((LABELS_FOLDER, *path.relative_to(folder).with_suffix("").parts))


def register_label_files(root: str | Path | None = None) -> list[str]:
    """Registers ``<root>/agssp_labels/<name>.json`` as ``agssp_labels_<name>``, and
    ``<name>/<part>.json`` there as ``agssp_labels_<name>_<part>``.

    Called on import. Only names are read before a data set is used; names that are registered
    already are left alone.

    Args:
        root: by default ``$DETECTRON2_DATASETS``, else ``datasets``.

    Returns:
        the names registered now.
    """
    folder = (user_path(root) if root is not None else datasets_root()) / LABELS_FOLDER
    registered = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        name = _name_below(folder, path)
        if name not in DatasetCatalog:
            _register(name, path)
            registered.append(name)
    return registered


def _register(name: str, path: Path) -> None:
    def load() -> list[dict]:
        info = read_json(path).get("info")
        image_root = info.get("image_root") if isinstance(info, dict) else None
        if not isinstance(image_root, str):
            raise ValueError(
                f"{path} does not say where its images are: make it with `agssp labels`, or add "
                'their folder as "image_root" to its "info".'
            )
        MetadataCatalog.get(name).image_root = image_root
        return load_coco_json(str(path), image_root, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=str(path), evaluator_type="coco")
