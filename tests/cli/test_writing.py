"""Every command that writes at its end: interrupted, on a full disk, where it must not, killed.
What is there is whole, a line says what to do, and the next run ends as if nothing had been.

Runs that go on from what they left have tests of their own: maps, pretraining, training and the
benchmark of few labels."""

import errno
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from detectron2_agssp.cli.main import main
from detectron2_agssp.io import files as written
from detectron2_agssp.io.coco import forget_dataset
from tests.checkpoint.test_openmmlab import mm_swin
from tests.child_process import as_script, run_and_kill, run_in_child
from tests.data.prepare_sources import make_tile_source, make_two_images
from tests.tiny_data import write_datasets
from tests.tiny_models import SMALL_R50, make_cfg, make_model

ROOT = Path(__file__).parents[2]
# Name -> the command, of what the fixture made and of where it writes.
COMMANDS = {
    "boxes": "boxes {maps} {out}/boxes.json",
    "report": "report {maps} {out} --num 1",
    "panels": "report {maps} {out} --panels",
    "compare": "compare {maps} --output {out}/compare.json",
    "evaluate maps": "evaluate maps {maps} {labels} --output {out}/table.json",
    "evaluate boxes": "evaluate boxes {maps} {labels} --output {out}/boxes.json",
    "evaluate energies": "evaluate energies {images} {labels} --config-file {run}/config.yaml "
    "--weights {run}/model_final.pth --size 64 --output {out}/table.json",
    "init": "init {out}/own.yaml --labels {labels} --images {images}",
    "labels": "labels {labels} {out}/own.json --format coco --images {images}",
    "backbone": "backbone {run}/model_final.pth {out}/b.pth --config-file {run}/config.yaml",
    "convert": "convert {run}/openmmlab.pth {out}/c.pth",
    "prepare NEU-DET": "datasets/prepare_neu_det.py {neu} --output {out} --copy",
    "prepare Magnetic-Tile": "datasets/prepare_magnetic_tile.py {tiles} --output {out}",
}
INTERRUPTED = "\nInterrupted. The same command again goes on where this one stopped.\n"
# That write all along.
LONG = {
    "maps": "maps {images} {out} AGSSP.SCORER.WEIGHTS  AGSSP.SCORER.IMAGE_SIZE 64 "
    "AGSSP.SCORER.STRIDES (8,16) AGSSP.SCORER.NUM_WORKERS 0",
    "train": "train --resume --config-file {run}/own.yaml OUTPUT_DIR {out}",
}
SLOW = ("report", "evaluate boxes", "evaluate energies")
# Bytes, fewer than any of the files that are to be written whole.
FILE_LIMIT = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the commands read."""
    root = tmp_path_factory.mktemp("made")
    data = write_datasets(root / "data")
    run = root / "run"
    run.mkdir()
    settings = {**SMALL_R50, "MODEL.DEVICE": "cpu"}
    (run / "config.yaml").write_text(make_cfg("agbp/R50.yaml", settings).dump())
    model = make_model("agbp/R50.yaml", settings)
    torch.save({"model": model.state_dict()}, run / "model_final.pth")
    torch.save(mm_swin(), run / "openmmlab.pth")
    images, labels = data / "neu_det/images", data / "neu_det/annotations/train.json"
    small = {"SOLVER": {"MAX_ITER": 2, "IMS_PER_BATCH": 1, "CHECKPOINT_PERIOD": 1}}
    # Four images are too few to draw some for validation.
    small |= {
        "AGSSP": {
            "DATA": {"COCO": [["own", str(labels), str(images)]]},
            "SOLVER": {"BEST_METRIC": ""},
        }
    }
    small |= {
        "SEED": 1,
        "DATASETS": {"TRAIN": ["own"], "TEST": []},
        "DATALOADER": {"NUM_WORKERS": 0},
    }
    cfg = make_cfg("finetune/faster_rcnn_R50_fpn.yaml", settings)
    cfg.merge_from_other_cfg(CfgNode(small))
    (run / "own.yaml").write_text(cfg.dump())
    return {
        "maps": data / "agssp/tiny",
        "images": images,
        "labels": labels,
        "run": run,
        "neu": make_two_images(root),
        "tiles": make_tile_source(root),
    }


def command_of(name, made, out):
    """A script, or "agssp", and its arguments."""
    script, *words = {**COMMANDS, **LONG}[name].format(**made, out=out).split(" ")
    return (str(ROOT / script), words) if script.endswith(".py") else ("agssp", [script, *words])


@pytest.fixture
def run(made, tmp_path, monkeypatch, capsys):
    """A function that runs a command in this process: exit code, and the last line of errors."""

    def run(name, out):
        script, words = command_of(name, made, out)
        for registered in ("own", "own_train", "own_val"):
            forget_dataset(registered)
        capsys.readouterr()
        try:
            if script == "agssp":
                main(words)
            else:
                monkeypatch.setattr(sys, "argv", [script, *words])
                runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            # After what bars have shown.
            return end.code, capsys.readouterr().err.rstrip("\n").splitlines()[-1]
        return 0, ""

    return run


def contents(folder):
    """Of every file that is not hidden, which those of killed runs are."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(os.fsencode(folder), b"OUT")
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".agssp")
    }


def fill_disk(monkeypatch):
    """Files may not grow, as on a full disk: PyTorch's own writer meets it, too."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, most))


def forbid_writing(monkeypatch):
    """By the function that opens files for it: root may write anywhere."""

    def refuse(path, mode="r", **how):
        if "w" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return open(path, mode, **how)

    monkeypatch.setattr(written, "open", refuse, raising=False)


def interrupt(monkeypatch):
    """Ctrl-C when a file is renamed into place."""

    def interrupted(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in COMMANDS],
)
def test_what_stops_a_command(run, tmp_path, monkeypatch, name):
    whole, out = tmp_path / "whole", tmp_path / "out"
    for folder in (whole, out):
        folder.mkdir()
    assert run(name, whole)[0] == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for stop, code, message in (
        (fill_disk, 2, "is not written (File too large): there is no room"),
        (forbid_writing, 2, "is not written (Permission denied): name another place"),
        (interrupt, 130, "Interrupted. The same command again goes on"),
    ):
        with monkeypatch.context() as patch:
            stop(patch)
            try:
                ended, printed = run(name, out)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (ended, message in printed) == (code, True), printed
        if code == 2:
            assert str(out) in printed
        assert not list(out.rglob(".agssp-*"))
        assert not contents(out)
    assert run(name, out)[0] == 0
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("name", ["train", "prepare NEU-DET"])
def test_two_at_once(run, tmp_path, name):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    written.lock_file(descriptor)
    code, said = run(name, tmp_path)
    os.close(descriptor)
    assert (code, said) == (2, f"error: Another run is writing to {tmp_path}. Wait for it to end.")
    assert not contents(tmp_path)


def run_and_die(script, words, files, count):
    """Kills its own process when the ``count``-th file is renamed into place."""
    replace = os.replace

    def dying_replace(*paths):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = dying_replace
    as_script(script, words, files, {})


def child_command_of(name, made, out):
    script, words = command_of(name, made, out)
    return ("detectron2_agssp" if script == "agssp" else script), words


@pytest.mark.parametrize("name", ["panels", "init", "prepare NEU-DET"])
def test_killed_between_two_files(made, tmp_path, name):
    """Of the commands that write several: none of them is cut short, and the next run ends it."""
    files = [tmp_path / "stdout", tmp_path / "stderr"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    for folder in (whole, out):
        folder.mkdir()
    assert run_in_child(as_script, *child_command_of(name, made, whole), files, {}) == 0
    expected = contents(whole)
    command = child_command_of(name, made, out)
    for count in (2, len(expected)):
        assert run_in_child(run_and_die, *command, files, count) == -signal.SIGKILL
        assert contents(out).items() < expected.items()
    assert run_in_child(as_script, *command, files, {}) == 0
    assert contents(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_moments(made, tmp_path, name, by):
    files = [tmp_path / "stdout", tmp_path / "stderr"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.mkdir()
    command = child_command_of(name, made, whole)
    # The first one of all starts the server of the processes, too.
    assert run_in_child(as_script, *child_command_of("convert", made, tmp_path), files, {}) == 0
    start = time.perf_counter()
    assert run_in_child(as_script, *command, files, {}) == 0
    duration, expected, stopped = time.perf_counter() - start, contents(whole), 0
    command, rng = child_command_of(name, made, out), random.Random(name)
    for _ in range(12):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        moment = rng.uniform(0.2, 1) * duration
        code = run_and_kill(as_script, *command, files, {}, after=moment, by=by)
        assert contents(out).items() <= expected.items()
        if code == 0:
            duration *= 0.7
            continue
        if by == signal.SIGINT:
            # 1: before the command began.
            assert (code, files[1].read_text().endswith(INTERRUPTED)) in ((130, True), (1, False))
        else:
            assert code == -by
        if name != "init" or not (out / "own.yaml").exists():
            assert run_in_child(as_script, *command, files, {}) == 0
        assert contents(out) == expected
        stopped += 1
        if stopped == 2:
            return
    raise AssertionError(f"stopped {stopped} of 12 runs")


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 64 MB of memory."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "t", place]).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def last_error(file):
    return ([""] + [line for line in file.read_text().splitlines() if line.startswith("error: ")])[
        -1
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, *LONG])
def test_a_disk_that_is_full_or_read_only(made, tmp_path, disk, name):
    files = [tmp_path / "stdout", tmp_path / "stderr"]
    whole, out, filler = tmp_path / "whole", disk / "out", disk / "filler"
    whole.mkdir()
    assert run_in_child(as_script, *child_command_of(name, made, whole), files, {}) == 0
    out.mkdir()
    command = child_command_of(name, made, out)
    for free in (0, 8192, 65536):
        with open(filler, "wb") as file:
            file.write(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - free))
        code = run_in_child(as_script, *command, files, {})
        filler.unlink()
        said = last_error(files[1])
        assert code in ((2,) if free == 0 else (0, 2)), said
        assert code == 0 or ("room" in said and str(out) in said), said
        assert not list(out.rglob(".agssp-*"))
        if name in COMMANDS:
            assert contents(out).items() <= contents(whole).items()
        if name == "init" and code == 0:
            shutil.rmtree(out)
            out.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert run_in_child(as_script, *command, files, {}) == 2
    assert str(out) in last_error(files[1])
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert run_in_child(as_script, *command, files, {}) == 0
    if name != "train":
        assert contents(out) == contents(whole)
        return
    weights = [
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (out, whole)
    ]
    assert all(torch.equal(weights[0][key], tensor) for key, tensor in weights[1].items())
