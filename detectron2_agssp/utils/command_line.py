"""What the command lines share: a parser, arguments, readable errors, several processes.

Imports nothing large, so that a help is printed at once.
"""

import argparse
import contextlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from detectron2_agssp.utils import torchrun
from detectron2_agssp.utils.suggestions import did_you_mean

WRONG_USAGE = 2  # exit code of every expected error
INTERRUPTED = 130
# Set to 1, it shows where an expected error came from.
TRACEBACK_VARIABLE = "AGSSP_TRACEBACK"
GO_ON = "The same command again goes on where this one stopped."


class CommandParser(argparse.ArgumentParser):
    """An argparse parser without abbreviated options, whose errors are one line, and which takes
    positional arguments and options in any order."""

    def __init__(self, prog: str, description: str, example: str = ""):
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"example:\n  {example}" if example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The parsed arguments, by default of this process; a mistyped option is answered with the
        nearest one."""
        args, unknown = self.parse_known_intermixed_args(arguments)
        for argument in unknown:
            option = argument.split("=")[0]
            self.error(
                f"There is no option {option}.{did_you_mean(option, self._option_string_actions)}"
            )
        return args

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (See {self.prog} --help.)", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config-file``, ``--allow-unsafe-config`` and the KEY VALUE pairs of train_net.py, which
    ``io.config_reading.config_from`` reads."""
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="yaml with settings: a path, or a shipped one such as agssp://agbp/R50.yaml",
    )
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let the yaml build Python objects, which can run any code: for files you trust",
    )
    parser.add_argument(
        "opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="pairs that override the config, such as AGSSP.BOXES.MARGIN 0.2",
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of :func:`launch`, as in train_net.py."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes of this machine, a GPU each"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines in all")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of machine 0, where there are several",
    )


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """``--tile`` and ``--overlap``, of a detector's; see :func:`options_of`."""
    parser.add_argument(
        "--tile",
        type=int,
        default=0,
        metavar="PX",
        help="detect in larger images in tiles of PX pixels a side, at their own scale",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="of neighbouring tiles, as a share of their side (AGSSP.PREDICT.TILE_OVERLAP; "
        "default: 0.2)",
    )


def options_of(args: argparse.Namespace) -> list[str]:
    """The pairs that override the config, with what ``--overlap`` says."""
    options = list(args.opts)
    if args.overlap is not None:
        options += ["AGSSP.PREDICT.TILE_OVERLAP", str(args.overlap)]
    return options


@contextlib.contextmanager
def readable_errors(go_on: str = GO_ON) -> Iterator[None]:
    """Prints the message of an expected error, without a traceback, and exits with 2; after Ctrl-C
    prints ``go_on`` and exits with 130."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        print(f"\nInterrupted. {go_on}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except BrokenPipeError as error:
        # The reader, such as `head`, has seen enough; Python would complain again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from error
    except (ValueError, OSError, ImportError, KeyError, AssertionError, ArithmeticError) as error:
        # Detectron2 asserts what a config or a data set must be; without words it is a defect.
        if os.environ.get(TRACEBACK_VARIABLE) == "1" or not str(error):
            raise
        # As text, a KeyError is its message in quotes.
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(WRONG_USAGE) from error


def launch(function: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Calls ``function(args)`` in as many processes as the arguments of
    :func:`add_launch_arguments` say, or in this one of those that torchrun has started;
    ``function`` can be imported by its name.

    Raises:
        ValueError: torchrun and these arguments both say how many.
    """
    from detectron2.engine import launch as launch_processes
    from torch.multiprocessing import ProcessExitedException

    alone = args.num_gpus * args.num_machines == 1
    member = torchrun.member_of()
    if member is not None:
        if not alone:
            raise ValueError(
                f"torchrun has started {member.world_size} processes already: leave out --num-gpus "
                "and --num-machines, or call the command without torchrun."
            )
        torchrun.join(member)
        function(args)
        torchrun.leave()
        return
    try:
        launch_processes(
            function if alone else _run_readably,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,) if alone else (function, args),
            timeout=torchrun.TIMEOUT,
        )
    except ProcessExitedException as error:
        # It has said why.
        raise SystemExit(error.exit_code) from error


def check_alone(args: argparse.Namespace, prog: str) -> None:
    """Refuses to run a command, that knows of no other processes, in each that torchrun started.

    Raises:
        ValueError: there are several, and ``args`` are not those of :func:`add_launch_arguments`.
    """
    if not hasattr(args, "num_gpus") and (member := torchrun.member_of()) is not None:
        raise ValueError(
            f"{prog} runs in one process, and torchrun has started {member.world_size}: call it "
            "without."
        )


def _run_readably(function: Callable, args: argparse.Namespace) -> None:
    with readable_errors():
        function(args)


def split_config_pairs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Takes the KEY VALUE pairs out of positional arguments of which there are any number, where
    argparse cannot tell them from pairs; a KEY is in capitals and has a dot.

    Returns:
        the other arguments, and the pairs one after the other.
    """
    others, pairs = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+", argument):
            pairs += [argument, *itertools.islice(remaining, 1)]
        else:
            others.append(argument)
    return others, pairs
