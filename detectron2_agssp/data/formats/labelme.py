"""Labelme's json: shapes, a file per image. For the sets that are published so."""

from collections.abc import Collection
from itertools import chain

from detectron2_agssp.data.formats.orientation import upright_points
from detectron2_agssp.data.formats.pairing import Pair, Source, require_pairs
from detectron2_agssp.data.formats.records import (
    Box,
    Labels,
    box_inside,
    orientation_of,
    polygon_area,
    polygon_corners,
    polygons_inside,
    read_records,
    report_unlabelled,
)
from detectron2_agssp.io.files import read_json

EXPECTED = "images, and labelme files of the same names (*.json)"


def read_labelme(source: Source, classes: Collection[str] | None = None) -> Labels:
    """Reads all images and their shapes (polygons, rectangles), sorted by name; without a file, an
    image is free of defects.

    Arguments and errors as of :func:`~.voc.read_voc`.
    """
    images, files = source.images(), source.files((".json",))
    pairs = source.pairs(images, files, may_lack=lambda image: True)
    require_pairs(pairs, images, files, source.root, EXPECTED)
    report_unlabelled(pairs, source.report)

    def boxes_of(pair: Pair, width: int, height: int) -> tuple[Box, ...]:
        if not pair.labels:
            return ()
        content, size, boxes = read_json(pair.labels[0]), (width, height), []
        try:
            declared = (content.get("imageWidth"), content.get("imageHeight"))
            shapes = [(str(shape["label"]), shape["points"]) for shape in content["shapes"]]
            corners = [[*chain.from_iterable(points)] for _, points in shapes]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{pair.labels[0]} has no shapes that can be read ({error})"
            ) from error
        turn = orientation_of(pair, "json", declared, size, source.report)
        for number, ((name, _), flat) in enumerate(zip(shapes, corners, strict=True)):
            where = f"{pair.name} shape {number}"
            if classes is not None and name not in classes:
                source.report.add("unknown_class", f"{where} ({name!r})")
                continue
            if len(flat) < 4 or len(flat) % 2:
                source.report.add("unreadable_box", f"{where} ({len(flat)} numbers)")
                continue
            flat = upright_points(flat, turn, *size)
            more = {}
            if len(flat) >= 6:  # two points are a rectangle's
                polygons = polygons_inside([flat], size)
                more = {"segmentation": polygons, "area": polygon_area(polygons)}
            around = polygon_corners([flat])
            if box := box_inside(name, around, size, where, source.report, **more):
                boxes.append(box)
        return tuple(boxes)

    records = read_records(pairs, boxes_of, source)
    found = sorted({box.category for record in records for box in record.boxes})
    return Labels(records, found if classes is None else list(classes))
