"""Runs code in processes of its own that may be killed: forks of one server that has imported what
takes long, so each takes a fraction of a second."""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "detectron2.engine",
        "detectron2_agssp.data",
        "detectron2_agssp.maps",
        "detectron2_agssp.modeling",
        "pytest",
        "scipy.ndimage",
        "tabulate",
        "timm",
    ]
)


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str


def run_in_child(function: Callable, *arguments) -> int:
    """Calls an importable function in a process of its own; its exit code, -9 if killed."""
    process = _context.Process(target=function, args=arguments)
    process.start()
    return _end(process, 120, f"{function.__name__}{arguments} runs for two minutes")


def run_in_two(function: Callable[[int], int]) -> list[int]:
    """Calls a function of a rank, 0 and 1, at the same time in two threads; what each returns, such
    as the exit codes of two processes that meet."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, range(2)))


def _end(process, seconds: float, message: str) -> int:
    """The exit code of a process that ends within so many seconds; or TimeoutError."""
    process.join(timeout=seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(message)
    return process.exitcode


def run_and_kill(
    function: Callable, *arguments, after: float, by: signal.Signals = signal.SIGKILL
) -> int:
    """Calls an importable function in a process of its own, and sends that a signal after so many
    seconds; its exit code, 0 if it had ended by then."""
    process = _context.Process(target=function, args=arguments)
    process.start()
    process.join(timeout=after)
    if process.exitcode is None:
        os.kill(process.pid, by)
    return _end(process, 60, f"{function.__name__}{arguments} does not end by {by.name}")


def run_script(
    script: Path | str, *arguments, output: Path, environment: dict[str, str] | None = None
) -> Finished:
    """Runs ``script``, a file or the name of a module (``python -m``), as from the command line;
    ``output`` is a folder for what it prints, ``environment`` has variables to be set."""
    files = [output / "stdout.txt", output / "stderr.txt"]
    texts = [str(argument) for argument in arguments]
    code = run_in_child(as_script, str(script), texts, files, environment or {})
    return Finished(code, *(file.read_text() for file in files))


def run_command(*arguments, **settings) -> Finished:
    """Runs ``agssp ARGUMENTS`` as :func:`run_script` does."""
    return run_script("detectron2_agssp", *arguments, **settings)


def as_script(
    script: str, arguments: list[str], files: list[Path], environment: dict[str, str]
) -> None:
    """What :func:`run_script` calls in its process; ``files`` are those of what is printed."""
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [script, *arguments]
    if script.endswith(".py"):
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
