"""Reads labels of any format and writes them as COCO json, whole or in parts (OUT_train.json, ...).

What is wrong in them is counted here and named one by one in the json's "info"; nothing is dropped
without. A json in $DETECTRON2_DATASETS/agssp_labels is a data set wherever detectron2_agssp is
imported: NAME.json there is agssp_labels_NAME.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments

HELP = "labels of any format as COCO json, in parts"
EXAMPLE = "agssp labels my_set my_set.json --format yolo --val 0.1 --test 0.2"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "root", metavar="IN", help="folder of the labels; of coco and rle, the file as well"
    )
    parser.add_argument("output", metavar="OUT.json", help="file to write")
    parser.add_argument(
        "--format", required=True, metavar="F", help="coco, yolo, voc, masks, mvtec or rle"
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the images (default: IN)")
    parser.add_argument(
        "--classes",
        type=lambda text: text.split(","),
        metavar="A,B,...",
        help="in the order of their ids (default: those that the labels name)",
    )
    parser.add_argument(
        "--val", type=float, metavar="SHARE", help="share of each class drawn for OUT_val.json"
    )
    parser.add_argument(
        "--test", type=float, metavar="SHARE", help="share of each class drawn for OUT_test.json"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="LIST",
        help="instead of drawing: text files with an image a line, such as train.txt val.txt, or a "
        "json of such lists; or the word folders, for folders named train, val and test",
    )
    one_based = parser.add_mutually_exclusive_group()
    one_based.add_argument(
        "--one-based",
        action="store_true",
        default=None,
        help="voc: corners are numbers of pixels, counted from 1 (default: unless one is 0)",
    )
    one_based.add_argument(
        "--zero-based",
        dest="one_based",
        action="store_false",
        default=None,
        help="voc: corners are edges, counted from 0",
    )
    parser.add_argument(
        "--values",
        metavar="KIND",
        help="masks: binary (what is not 0 is defect; the default), instances or classes",
    )
    parser.add_argument(
        "--codes",
        nargs="+",
        type=_code,
        metavar="VALUE=CLASS",
        help="masks of classes: the class of each value (1=crack) or colour (#ff0000=dent)",
    )
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="V",
        help="masks: what is above is defect (default: 127)",
    )
    parser.add_argument(
        "--min-area",
        type=int,
        metavar="N",
        help="masks, mvtec, rle: parts with fewer pixels make no box (default: 1)",
    )
    add_config_arguments(parser)


def _code(text: str) -> tuple[str, str]:
    value, equals, name = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form VALUE=CLASS")
    return value, name


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.data.formats.masks import codes_from
    from detectron2_agssp.data.labels import registered_name, write_labels
    from detectron2_agssp.io.config_reading import config_from
    from detectron2_agssp.io.images import ImageReader

    of_config = ("config_file", "allow_unsafe_config", "opts")
    given = {
        key: value
        for key, value in vars(args).items()
        if value is not None and key not in of_config
    }
    if "codes" in given:
        given["codes"] = codes_from(given["codes"])
    shares: dict[str, float] = {part: given.pop(part) for part in ("val", "test") if part in given}
    files, report = write_labels(shares=shares, reader=ImageReader(config_from(args)), **given)
    print(report.table())
    for path in files.values():
        name = registered_name(path)
        print(f"written: {path}" + (f", data set {name}" if name else ""))
