"""The command lines of ``datasets/prepare_*.py``."""

from collections.abc import Callable

from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.io.config_reading import config_from
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.utils.command_line import (
    CommandParser,
    add_config_arguments,
    readable_errors,
)

_OF_CONFIG = ("config_file", "allow_unsafe_config", "opts")


def build_parser(description: str, dataset: str) -> CommandParser:
    """The arguments both scripts have; their names are those of the functions in ``pipeline``, but
    for those of a config, whose ``AGSSP.INPUT`` says how images are read."""
    parser = CommandParser(f"prepare_{dataset}.py", description)
    parser.add_argument("source", metavar="SOURCE_DIR", help="folder of the unpacked data set")
    parser.add_argument("--output", metavar="DIR", help=f"default: $DETECTRON2_DATASETS/{dataset}")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking")
    parser.add_argument(
        "--splits",
        metavar="FILE",
        help="json with lists of image stems; default: SOURCE_DIR/splits.json, else the authors' "
        "own, else drawn",
    )
    add_config_arguments(parser)
    return parser


def run(prepare: Callable[..., Report], parser: CommandParser) -> None:
    """Calls ``prepare`` with the command line and prints its report, or its error in one line."""
    args = parser.parse()
    arguments = {name: value for name, value in vars(args).items() if name not in _OF_CONFIG}
    with readable_errors():
        print(prepare(**arguments, reader=ImageReader(config_from(args))).table())
