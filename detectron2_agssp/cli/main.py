"""Finds the subcommand, reads its arguments, then imports the plugin and runs it."""

import importlib
import logging
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Sequence
from types import ModuleType

from detectron2_agssp import cli, install
from detectron2_agssp.utils.command_line import (
    GO_ON,
    WRONG_USAGE,
    CommandParser,
    check_alone,
    readable_errors,
)
from detectron2_agssp.utils.suggestions import did_you_mean
from detectron2_agssp.version import __version__

# In a help: the order of the work. Others follow by name.
ORDER = (
    *("info", "corpus", "maps", "report", "compare", "boxes", "evaluate", "pretrain"),
    *("labels", "init", "train", "predict", "next", "export"),
)


def commands() -> list[str]:
    """Every subcommand, such as "maps" or "evaluate maps"."""
    names = [module.name.replace("_", " ") for module in pkgutil.iter_modules(cli.__path__)]
    return sorted((name for name in names if name != "main"), key=_rank)


def _rank(command: str) -> tuple[int, str]:
    word = command.split()[0]
    return (ORDER.index(word) if word in ORDER else len(ORDER), command)


def main(arguments: Sequence[str] | None = None, *, prog: str = "agssp") -> None:
    """Runs the command line.

    Args:
        arguments: of the command; by default those of this process.
        prog: its name in a help.

    Raises:
        SystemExit: with 2 for an expected error, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with readable_errors():
        command = _command_of(words)
        run_command(command, words[len(command.split()) :], prog=f"{prog} {command}")


def run_command(command: str, arguments: Sequence[str], *, prog: str) -> None:
    """Runs a subcommand, such as "train", with its own arguments; raises as :func:`main` does."""
    module = importlib.import_module(f"detectron2_agssp.cli.{command.replace(' ', '_')}")
    parser = _parser_of(module, prog)
    args = parser.parse(arguments)
    with readable_errors(getattr(module, "GO_ON", GO_ON)):
        check_alone(args, prog)
        if getattr(module, "NEEDS_PLUGIN", True):
            _quiet()
            install()
        module.run(args)


def _quiet() -> None:
    """Leaves out what torch says of Detectron2's and fvcore's own code: whoever runs a command
    cannot do anything about it."""
    warnings.filterwarnings("ignore", "`torch.jit.(script|load)` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def _parser_of(module: ModuleType, prog: str) -> CommandParser:
    parser = CommandParser(prog, module.__doc__ or module.HELP, module.EXAMPLE)
    module.configure(parser)
    return parser


def _command_of(words: list[str]) -> str:
    """The subcommand that ``words`` begin with; prints a help, and exits, where they ask for it."""
    if words[:1] == ["--version"]:
        print(f"detectron2_agssp {__version__}")
        raise SystemExit(0)
    known = commands()
    for length in (2, 1):
        command = " ".join(words[:length])
        if command in known and len(words) >= length:
            return command
    # "evaluate" is no command of its own, but the beginning of some.
    group = words[0] if words and any(name.startswith(f"{words[0]} ") for name in known) else ""
    listed = [name for name in known if name.startswith(group)]
    word = " ".join(words[: 2 if group else 1])
    last = words[1 if group else 0 :][:1]
    if not last or last[0] in ("-h", "--help"):
        print(_help(group, listed), file=sys.stdout if last else sys.stderr)
        raise SystemExit(0 if last else WRONG_USAGE)
    print(
        f"error: There is no command {word}.{did_you_mean(word, listed)} "
        f"(See agssp {f'{group} ' if group else ''}--help.)",
        file=sys.stderr,
    )
    raise SystemExit(WRONG_USAGE)


def _help(group: str, listed: Iterable[str]) -> str:
    modules = {
        name: importlib.import_module(f"detectron2_agssp.cli.{name.replace(' ', '_')}")
        for name in listed
    }
    width = max(map(len, modules))
    lines = [f"  {name:<{width}}  {module.HELP}" for name, module in modules.items()]
    about = "" if group else "Pretrains Detectron2 defect detectors on unlabelled images.\n\n"
    return (
        f"usage: agssp {group or 'COMMAND'} ...\n\n{about}commands:\n"
        + "\n".join(lines)
        + f"\n\nagssp {f'{group} ...' if group else 'COMMAND'} --help says more of each. "
        "KEY VALUE pairs at the end of a command override its\nconfig."
    )
