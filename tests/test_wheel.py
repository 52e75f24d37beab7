"""Wheel and sdist, each installed into an empty folder, do the job from another working folder."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.tiny_models import ROOT

pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command, **environment) -> None:
    """From the root of the file system, where no checkout is found by chance."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd="/",
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


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


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_does_the_job(kind, request, tmp_path):
    """The wheel by its pure-PyTorch operators, the sdist by compiled ones where there is a
    compiler."""
    target = tmp_path / "site"
    archive = request.getfixturevalue(kind)
    run(*PIP, "install", "--no-deps", "--no-build-isolation", "--target", target, archive)
    package = target / "detectron2_agssp"
    assert (package / "py.typed").is_file()
    assert (package / "configs" / "lazy" / "agbp_lite0.py").is_file()
    assert (package / "scoring" / "kead" / "builtin" / "neu_det.yaml").is_file()
    assert list((package / "reports" / "templates").glob("*.html"))
    assert not list(package.rglob("*.cpp"))
    assert kind == "sdist" or not list(package.rglob("*.so"))
    run(sys.executable, target / "bin" / "agssp", "pretrain", "--help", PYTHONPATH=str(target))
    run(sys.executable, ROOT / ".ci" / "smoke.py", target, PYTHONPATH=str(target))
