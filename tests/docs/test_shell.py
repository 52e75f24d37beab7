"""The commands in the documentation: options, files, config keys and their values are real."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, get_cfg
from detectron2.engine import default_argument_parser
from omegaconf import OmegaConf

from detectron2_agssp.cli.main import _command_of, _parser_of
from detectron2_agssp.engine.recipe import Options
from detectron2_agssp.io.config_files import config_path
from tests.docs.blocks import PAGES, commands, read_blocks
from tests.tiny_models import ROOT

PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# What a user has and the repository does not.
OWN = re.compile(r"(your|my|mine)_")
TRAIN_SCRIPTS = ("train_net.py", "tools/train_net.py")
LAZY_SCRIPTS = ("lazyconfig_train_net.py", "tools/lazyconfig_train_net.py")
# Of the shell, or of others; nothing here to check.
PLAIN = {"cd", "export", "git", "ls", "open", "unzip"}


def check_config(path: str, pairs: list[str]) -> None:
    cfg = get_cfg()
    if path.startswith("agssp://"):
        cfg.merge_from_file(str(config_path(path)))
    elif path and not OWN.match(Path(path).name):
        cfg.merge_from_file(str(ROOT / path))
    cfg.merge_from_list(pairs)


def check_agssp(words: list[str]) -> None:
    command = _command_of(words)
    module = importlib.import_module(f"detectron2_agssp.cli.{command.replace(' ', '_')}")
    arguments = _parser_of(module, "agssp").parse(words[len(command.split()) :])
    pairs = getattr(arguments, "opts", [])
    if command == "pretrain":
        # Its keys may begin with the name of a stage.
        Options.parse(pairs)
    else:
        check_config(getattr(arguments, "config_file", ""), pairs)


def check_training(words: list[str]) -> None:
    arguments = default_argument_parser().parse_args(words)
    check_config(arguments.config_file, arguments.opts)


def check_lazy_training(words: list[str]) -> None:
    arguments = default_argument_parser().parse_args(words)
    cfg = LazyConfig.load(str(ROOT / arguments.config_file))
    for override in arguments.opts:
        key = override.partition("=")[0]
        assert OmegaConf.select(cfg, key) is not None, f"{arguments.config_file} has no {key}"


def check_module(module: str, words: list[str]) -> None:
    path = ROOT / module.replace(".", "/")
    sources = list(path.glob("*.py")) or [path.with_suffix(".py")]
    # Some take the options that all commands share.
    sources.append(ROOT / "detectron2_agssp" / "utils" / "command_line.py")
    text = "".join(source.read_text() for source in sources)
    for word in words:
        if word.startswith("--"):
            assert f'"{word}"' in text, f"{module} has no option {word}"
    for option, value in itertools.pairwise(words):
        if option == "--config-file" and not OWN.match(value):
            assert (ROOT / value).is_file(), f"there is no {value}"


def check_make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        variable, is_variable, _ = word.partition("=")
        expected = rf"^{variable} \?=|\(?ifdef {variable}\b" if is_variable else rf"^{word}:"
        assert re.search(expected, text, re.MULTILINE), f"the Makefile has no {word}"


def check_pip(words: list[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text() + (ROOT / "setup.py").read_text()
    for extras in re.findall(r"^\.\[(.*)\]$", "\n".join(words), re.MULTILINE):
        for extra in extras.split(","):
            assert re.search(rf'^"?{extra}"? = \[|"{extra}":', text, re.MULTILINE), extra


def check_command(words: list[str]) -> None:
    """Raises (SystemExit, AssertionError, KeyError, ...) unless the command could be run."""
    program, *rest = words
    if any("$" in word for word in words):
        raise AssertionError(f"{shlex.join(words)}: a variable may be unset")
    if program == "agssp":
        check_agssp(rest)
    elif program == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:])
    elif program == "python" and rest[0] in TRAIN_SCRIPTS:
        check_training(rest[1:])
    elif program == "python" and rest[0] in LAZY_SCRIPTS:
        check_lazy_training(rest[1:])
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
        check_module(rest[0].removesuffix(".py"), rest[1:])
    elif program == "make":
        check_make(rest)
    elif program == "pip":
        check_pip(rest)
    elif program not in PLAIN:
        assert (ROOT / program).is_file(), f"{program}: say by a marker why it is not checked"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_commands(page):
    for block in read_blocks(page):
        if block.language == "bash" and block.marker != "not run":
            for words in commands(block.text):
                try:
                    check_command(words)
                except (SystemExit, Exception) as error:
                    pytest.fail(f"{block.name}: {shlex.join(words)}: {error!r}")


@pytest.mark.parametrize(
    "line",
    [
        "agssp nosuch a b",
        "agssp maps images",
        "agssp maps images maps AGSSP.SCORER.NOSUCH 1",
        "agssp maps images maps --config-file agssp://maps/nosuch.yaml",
        "python train_net.py --config-file agssp://agbp/R50.yaml SOLVER.MAX_ITER many",
        "python lazyconfig_train_net.py --config-file configs/lazy/agbp_lite0.py nosuch=1",
        "python -m benchmarks.maps images --nosuch",
        "python tools/nosuch.py",
        "make nosuch",
        "pip install -e '.[nosuch]'",
        "nosuch",
        "agssp maps images $MAPS/mine",
    ],
)
def test_wrong_commands_are_found(line):
    (words,) = commands(line)
    with pytest.raises((SystemExit, Exception)):
        check_command(words)
