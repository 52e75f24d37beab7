"""The whole method in minutes on two CPU cores: `make quickstart`.

    python -m examples.quickstart [--output DIR]                 a synthetic sample, compared
    python -m examples.quickstart --images DIR [--output DIR]    pretraining on yours

Interrupted, it goes on where it was when called again. Delete the output folder to start anew.
"""

from pathlib import Path

from detectron2_agssp.utils.command_line import CommandParser, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory
from examples.quickstart import run_on_images, run_on_sample


def main() -> None:
    parser = CommandParser("python -m examples.quickstart", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("quickstart"), help="default: quickstart"
    )
    parser.add_argument("--images", type=Path, default=None, help="folder of your own images")
    args = parser.parse()
    keep_freed_memory()
    with readable_errors():
        output = args.output / ("images" if args.images else "sample")
        if args.images:
            run_on_images(output, args.images)
        else:
            run_on_sample(output)


if __name__ == "__main__":
    main()
