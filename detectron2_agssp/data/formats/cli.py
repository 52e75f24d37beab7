"""The command lines of ``datasets/prepare_*.py``."""

from collections.abc import Callable

from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.utils.command_line import CommandParser, readable_errors


def build_parser(description: str, dataset: str) -> CommandParser:
    """The arguments both scripts have; their names are those of the functions in ``pipeline``."""
    parser = CommandParser(f"prepare_{dataset}.py", description)
    parser.add_argument("source", metavar="SOURCE_DIR", help="folder of the unpacked data set")
    parser.add_argument("--output", metavar="DIR", help=f"default: $DETECTRON2_DATASETS/{dataset}")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking")
    parser.add_argument(
        "--splits",
        metavar="FILE",
        help="json with lists of image stems; default: SOURCE_DIR/splits.json, else drawn",
    )
    return parser


def run(prepare: Callable[..., Report], parser: CommandParser) -> None:
    """Calls ``prepare`` with the command line and prints its report, or its error in one line."""
    arguments = vars(parser.parse())
    with readable_errors():
        print(prepare(**arguments).table())
