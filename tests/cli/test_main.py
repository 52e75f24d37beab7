"""The command `agssp`: help without what is large, typing errors, one kind of error, Ctrl-C."""

import argparse
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from detectron2_agssp.cli.main import _parser_of, commands, main
from detectron2_agssp.utils.command_line import CommandParser, launch, readable_errors
from tests.tiny_models import ROOT

CONSOLE_SCRIPT = "from agssp_cli import main; main()"
# Ends with the large modules that the command line brought.
LOADED = """
import atexit, json, sys
large = ("torch", "detectron2", "cv2", "timm", "numpy", "yaml")
atexit.register(lambda: print(json.dumps([name for name in large if name in sys.modules])))
"""
# Each in a fork of a process that has done the slow imports.
HOLLOW = """
import builtins, os, runpy, sys
from detectron2.config import get_cfg
import cv2, detectron2.engine, detectron2.evaluation, detectron2.modeling
for argv in (["run.py", "-m", "detectron2_agssp.utils.collect_env"], ["-m", "detectron2_agssp"]):
    if os.fork() == 0:
        sys.argv, builtins.get_cfg = argv, get_cfg
        if argv[0] == "run.py":
            import detectron2_agssp
            print("AGSSP" in get_cfg(), flush=True)
        else:
            sys.path.insert(0, "")
            runpy.run_module("mine", run_name="__main__")
            sys.stdout.flush()
        os._exit(0)
    os.wait()
"""
# The console script, and what Detectron2's detectors call; each warns once in a process.
NOISY = """
__name__ = "agssp_cli"
from detectron2_agssp.cli import boxes, main
def run(args):
    import torch
    from torch.fx._symbolic_trace import is_fx_tracing
    torch.meshgrid(torch.ones(1), torch.ones(1)), is_fx_tracing()
    raise ValueError(args.maps)
boxes.run = run
main.main(["boxes", "nowhere", "boxes.json"])
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        **options,
    )


def module_of(command):
    return importlib.import_module(f"detectron2_agssp.cli.{command.replace(' ', '_')}")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["evaluate", "--help"], ["--version"], ["maps", "--help"]]
)
def test_a_help_imports_nothing_large(arguments):
    done = python("-c", LOADED + CONSOLE_SCRIPT, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    *text, loaded = done.stdout.splitlines()
    assert json.loads(loaded) == []
    assert text


def test_the_module_is_the_same_command():
    module, script = python("-m", "detectron2_agssp", "--help"), python("-c", CONSOLE_SCRIPT, "-h")
    assert module.stdout == script.stdout
    assert "  maps   " in module.stdout
    assert (module.returncode, module.stderr) == (0, "")


def test_an_error_is_all_that_is_said():
    done = python("-c", NOISY)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: nowhere\n")


def test_the_import_is_never_hollow(tmp_path):
    """Whatever the arguments of a program are, and where another package imports it while Python
    looks for the module of -m."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("import detectron2_agssp\n")
    (tmp_path / "mine/__main__.py").write_text("print('AGSSP' in get_cfg())\n")
    done = python("-c", HOLLOW, cwd=tmp_path)
    assert done.stdout.split() == ["True", "True"], done.stderr


@pytest.mark.parametrize("command", commands())
def test_every_argument_is_explained_and_the_example_is_valid(command):
    module = module_of(command)
    parser = _parser_of(module, f"agssp {command}")
    assert all(action.help for action in parser._actions)
    assert not parser.allow_abbrev
    assert module.HELP
    assert "\n" not in module.HELP
    assert module.EXAMPLE.startswith(f"agssp {command}")
    words = shlex.split(module.EXAMPLE)
    parser.parse(words[1 + len(command.split()) :])
    assert module.EXAMPLE in parser.format_help()


def test_files_and_commands_are_the_same():
    expected = {"maps", "report", "boxes", "compare", "train", "backbone", "convert", "info"}
    assert set(commands()) >= expected | {f"evaluate {what}" for what in ("maps", "boxes")}
    assert "main" not in commands()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["map"], "There is no command map. Did you mean maps? (See agssp --help.)"),
        (["zzz"], "There is no command zzz. (See agssp --help.)"),
        (["--verbose"], "There is no command --verbose. (See agssp --help.)"),
        (
            ["evaluate", "energy"],
            "There is no command evaluate energy. Did you mean evaluate energies? "
            "(See agssp evaluate --help.)",
        ),
        (
            ["maps", "a", "b", "--num-gpu", "2"],
            "There is no option --num-gpu. Did you mean --num-gpus? (See agssp maps --help.)",
        ),
        (["maps", "a", "b", "--qq=3"], "There is no option --qq. (See agssp maps --help.)"),
        (
            ["maps", "a"],
            "the following arguments are required: MAPS (See agssp maps --help.)",
        ),
        (["maps", "absent", "out"], "Image folder "),
        (["boxes", "absent", "out.json"], "absent has no manifest.jsonl"),
        (["train"], "--config-file is missing, for one agssp://agbp/lite0.yaml."),
    ],
)
def test_errors_are_one_line_with_the_nearest_name(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["evaluate"]])
def test_without_a_command_the_help_is_an_error(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "evaluate maps" in printed.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("The value."), "error: The value."),
        (KeyError("No key 'a'."), "error: No key 'a'."),
        (FileNotFoundError(2, "No such file", "a.png"), "error: [Errno 2] No such file: 'a.png'"),
        (FloatingPointError("Loss became NaN."), "error: Loss became NaN."),
    ],
)
def test_expected_errors(error, message, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="2"), readable_errors():
        raise error
    assert capsys.readouterr().err == f"{message}\n"
    monkeypatch.setenv("AGSSP_TRACEBACK", "1")
    with pytest.raises(type(error)), readable_errors():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("A defect."), AssertionError()])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)), readable_errors():
        raise error


@pytest.mark.parametrize(
    "script",
    [
        *("datasets/prepare_neu_det.py", "datasets/prepare_magnetic_tile.py", "tools/train_net.py"),
        *("examples/quickstart", "examples/quickstart/synthetic"),
        *(f"benchmarks/{name}" for name in ("few_label", "inference", "maps", "ops")),
    ],
)
def test_scripts_beside_the_package_have_the_same_errors(script, monkeypatch, capsys):
    """No abbreviated options, either; and every argument is explained."""
    made = []
    monkeypatch.setattr(CommandParser, "__init__", _noting(CommandParser.__init__, made))
    monkeypatch.setattr(sys, "argv", [script, "--hel"])
    monkeypatch.syspath_prepend(str(ROOT))
    path = ROOT / script
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(path if path.suffix else path / "__main__.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .* \(See .*--help\.\)\n", error)
    assert all(action.help for action in made[0]._actions)


def _noting(original, made):
    def init(self, *arguments):
        original(self, *arguments)
        made.append(self)

    return init


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-S", "-c", CONSOLE_SCRIPT, "info"]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train", "The same command with --resume goes on from the last checkpoint."),
        ("maps", "The same command again goes on: the maps that were made are kept."),
    ],
)
def test_ctrl_c_prints_one_line_that_says_how_to_go_on(command, message, monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module_of(command), "run", interrupted)
    arguments = {"train": ["--config-file", "a.yaml"], "maps": ["images", "maps"]}[command]
    with pytest.raises(SystemExit, match="130"):
        main([command, *arguments])
    assert capsys.readouterr().err == f"\nInterrupted. {message}\n"


def test_code_without_a_name_may_import_the_package():
    """As Sphinx runs its conf.py."""
    namespace = {}
    exec("import detectron2_agssp as d; by_command = d._imported_by_the_command()", namespace)
    assert namespace["by_command"] is False


def _complain(args):
    raise ValueError(f"Process of {args.num_gpus}.")


@pytest.mark.slow
def test_several_processes_end_with_the_error_of_one(capfd):
    args = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(SystemExit, match="2"):
        launch(_complain, args)
    assert "error: Process of 2." in capfd.readouterr().err
