"""From a source folder to a data set Detectron2 can load."""

from collections.abc import Sequence
from pathlib import Path

from detectron2_agssp.data.formats.classes import MAGNETIC_TILE_CLASSES, NEU_DET_CLASSES
from detectron2_agssp.data.formats.layout import (
    checked_output,
    claim_files,
    default_output,
    place_file,
)
from detectron2_agssp.data.formats.masks import MIN_AREA, read_magnetic_tile
from detectron2_agssp.data.formats.records import Record, checked_source, records_as_coco
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.data.formats.splits import check_splits, make_splits, read_splits
from detectron2_agssp.data.formats.voc import read_neu_det
from detectron2_agssp.io.coco import check_coco_json, write_coco
from detectron2_agssp.io.files import write_json


def prepare_neu_det(
    source: str | Path,
    output: str | Path | None = None,
    copy: bool = False,
    splits: str | Path | None = None,
) -> Report:
    """Prepares NEU-DET; returns the report that is also written to ``output/report.json``.

    ``output`` defaults to ``$DETECTRON2_DATASETS/neu_det``. Images are linked, or copied with
    ``copy``. ``splits`` is a json file as :func:`~.splits.read_splits` takes it; by default
    ``source/splits.json``, and without one splits are drawn.

    Raises FileNotFoundError if ``source``, its contents or ``splits`` are missing, ValueError if
    no image can be used, if the output is inside the source, or if the splits are unusable.
    """
    report = Report("neu_det", str(checked_source(source)))
    output = _output(report, output)
    records = read_neu_det(source, report)
    return _prepare(records, NEU_DET_CLASSES, output, copy, splits, report)


def prepare_magnetic_tile(
    source: str | Path,
    output: str | Path | None = None,
    copy: bool = False,
    splits: str | Path | None = None,
    min_area: int = MIN_AREA,
) -> Report:
    """Prepares Magnetic-Tile as :func:`prepare_neu_det` does NEU-DET, with the same errors.

    Components of a mask with fewer than ``min_area`` pixels make no box. The masks of defect
    images come along in ``output/masks``.
    """
    report = Report("magnetic_tile", str(checked_source(source)))
    output = _output(report, output)
    records = read_magnetic_tile(source, report, min_area)
    return _prepare(records, MAGNETIC_TILE_CLASSES, output, copy, splits, report)


def _output(report: Report, output: str | Path | None) -> Path:
    output = default_output(report.dataset) if output is None else Path(output).expanduser()
    return checked_output(output, Path(report.source))


def _prepare(
    records: list[Record],
    classes: Sequence[str],
    output: Path,
    copy: bool,
    splits_file: str | Path | None,
    report: Report,
) -> Report:
    if not records:
        raise ValueError(
            f"no image in {report.source} can be used; {'; '.join(report.problem_lines())}"
        )
    if splits_file is None and (Path(report.source) / "splits.json").exists():
        splits_file = Path(report.source) / "splits.json"
    if splits_file is None:
        splits = make_splits(records, report)
    else:
        splits = read_splits(Path(splits_file), report)
    chosen = check_splits(splits, records, report)

    files = {}
    for folder in ("train", "test"):
        for record in chosen[folder]:
            files[f"images/{folder}/{record.place}"] = record.image
            if record.mask is not None:
                mask = Path(record.place).with_suffix(record.mask.suffix).as_posix()
                files[f"masks/{folder}/{mask}"] = record.mask
    annotations = {name: f"annotations/{name}.json" for name in chosen}

    claim_files(output, {*files, *annotations.values()})
    for place, source in files.items():
        place_file(source, output / place, copy)
    image_ids = {record.stem: number for number, record in enumerate(records, start=1)}
    for name, members in chosen.items():
        folder = "test" if name == "test" else "train"
        path = output / annotations[name]
        write_coco(path, records_as_coco(members, classes, folder, image_ids))
        for problem in check_coco_json(path, output / "images"):
            report.add("coco_problem", f"{path.name}: {problem}")
        categories = [[box.category for box in record.boxes] for record in members]
        report.count_split(name, categories, classes)
    stems = {name: [record.stem for record in members] for name, members in chosen.items()}
    write_json(output / "splits.json", stems)
    write_json(output / "report.json", report.to_json())
    return report
