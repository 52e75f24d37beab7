"""The command lines of ``datasets/prepare_*.py``."""

import argparse
import sys
from collections.abc import Callable

from detectron2_agssp.data.formats.report import Report


def build_parser(description: str, dataset: str) -> argparse.ArgumentParser:
    """The arguments both scripts have; their names are those of the functions in ``pipeline``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE_DIR", help="folder of the unpacked data set")
    parser.add_argument("--output", metavar="DIR", help=f"default: $DETECTRON2_DATASETS/{dataset}")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking")
    parser.add_argument(
        "--splits",
        metavar="FILE",
        help="json with lists of image stems; default: SOURCE_DIR/splits.json, else drawn",
    )
    return parser


def run(prepare: Callable[..., Report], parser: argparse.ArgumentParser) -> None:
    """Calls ``prepare`` with the command line and prints its report, or its error in one line."""
    try:
        report = prepare(**vars(parser.parse_args()))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(report.table())
