"""From a source folder to a data set Detectron2 can load."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2_agssp.data.formats.layout import (
    checked_output,
    claim_files,
    default_output,
    place_file,
)
from detectron2_agssp.data.formats.pairing import Source
from detectron2_agssp.data.formats.records import Labels, Record, records_as_coco
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.data.formats.splits import check_splits, make_splits, read_splits
from detectron2_agssp.io.coco import check_coco_json, write_coco
from detectron2_agssp.io.files import only_run, user_path, write_json
from detectron2_agssp.io.images import ImageReader


def prepare_dataset(
    dataset: str,
    read: Callable[[Source], Labels],
    source: str | Path,
    *,
    output: str | Path | None = None,
    copy: bool = False,
    splits: str | Path | None = None,
    reader: ImageReader | None = None,
    parts: Callable[[Sequence[Record], Source], dict[str, list[Record]]] = lambda *_: {},
    labelled: bool = True,
) -> Report:
    """Prepares a data set; returns the report that is also written to ``output/report.json``.

    Args:
        dataset: its name, a folder of ``$DETECTRON2_DATASETS``.
        read: reads the source folder.
        source: the folder as it is published.
        output: folder to write; by default ``$DETECTRON2_DATASETS/<dataset>``.
        copy: the images, and not links to them.
        splits: a json file as :func:`~.splits.read_splits` takes it; by default
            ``source/splits.json``, and without one ``parts``, or else splits are drawn.
        reader: how images are read; None is ``ImageReader()``.
        parts: the authors' "train" and "test"; an empty dict if there are none.
        labelled: whether there are boxes; without, all images are to pretrain on.

    Raises:
        FileNotFoundError: ``source``, its contents or ``splits`` are missing.
        ValueError: no image can be used, the output is inside the source, or the splits are
            unusable.
        OSError: another run is writing to the output.
    """
    report = Report(dataset, str(user_path(source).resolve()))
    opened = Source.open(source, report, reader=reader)
    root = opened.root
    output = checked_output(default_output(dataset) if output is None else user_path(output), root)
    records, classes = read(opened)
    if not records:
        raise ValueError(
            f"no image in {report.source} can be used; {'; '.join(report.problem_lines())}"
        )
    if splits is None and (root / "splits.json").exists():
        splits = root / "splits.json"
    if not labelled:
        chosen = {"train": records}
    elif splits is not None:
        chosen = check_splits(read_splits(Path(splits), report), records, report)
    elif given := parts(records, opened):
        chosen = {name: given.get(name, []) for name in ("train", "test")}
    else:
        chosen = check_splits(make_splits(records, report), records, report)

    files = {}
    for folder in ("train", "test"):
        for record in chosen.get(folder, ()):
            files[f"images/{folder}/{record.place}"] = record.image
            if record.mask is not None:
                mask = Path(record.place).with_suffix(record.mask.suffix).as_posix()
                files[f"masks/{folder}/{mask}"] = record.mask
    annotations = {name: f"annotations/{name}.json" for name in chosen if labelled}

    with only_run(output):
        claim_files(output, {*files, *annotations.values()})
        for place, file in files.items():
            place_file(file, output / place, copy)
        image_ids = {record.stem: number for number, record in enumerate(records, start=1)}
        for name, members in chosen.items():
            categories = [[box.category for box in record.boxes] for record in members]
            report.count_split(name, categories, classes)
            if name not in annotations:
                continue
            folder = "test" if name == "test" else "train"
            path = output / annotations[name]
            place = functools.partial(_file_name, folder)
            write_coco(path, records_as_coco(members, classes, place, image_ids))
            for problem in check_coco_json(path, output / "images"):
                report.add("coco_problem", f"{path.name}: {problem}")
        stems = {name: [record.stem for record in members] for name, members in chosen.items()}
        write_json(output / "splits.json", stems)
        write_json(output / "report.json", report.to_json())
    return report


def _file_name(folder: str, record: Record) -> str:
    return f"{folder}/{record.place}"
