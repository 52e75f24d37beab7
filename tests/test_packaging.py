"""What the metadata says: one version, dependencies as they were tried, files that exist."""

import itertools
import re
import sys

import pytest
import yaml
from packaging.requirements import Requirement

import detectron2_agssp
from tests.tiny_models import ROOT

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")


def pins(name: str) -> dict[str, str]:
    """Distribution -> version, in a file of requirements."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [line.split("#")[0].strip().split("==") for line in lines if "==" in line]
    return {_normal(name): version for name, version in pinned}


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_once(project):
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"].endswith("__version__")
    assert re.fullmatch(r"\d+\.\d+\.\d+", detectron2_agssp.__version__)


def test_the_lowest_versions_are_those_that_were_tried(project):
    lowest = pins("lowest.txt")
    for text in project["project"]["dependencies"]:
        requirement = Requirement(text)
        pin = lowest[_normal(requirement.name)]
        assert requirement.specifier.contains(pin), text
        bound = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        assert not bound or pin.startswith(bound[0]), f"{text} is tried as {pin}"


def test_dependencies_and_extras_are_pinned(project):
    pinned = pins("runtime.txt")
    extras = project["project"]["optional-dependencies"].values()
    requirements = list(itertools.chain(project["project"]["dependencies"], *extras))
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name != "detectron2_agssp":
            pin = pinned[_normal(requirement.name)]
            assert requirement.specifier.contains(pin), f"{text} is pinned to {pin}"


def test_the_console_script_is_there(project):
    module, function = project["project"]["scripts"]["agssp"].split(":")
    __import__(module)
    assert callable(getattr(sys.modules[module], function))
    assert project["tool"]["setuptools"]["py-modules"] == [module]


def test_the_types_are_declared_and_the_citation_can_be_read():
    assert (ROOT / "detectron2_agssp" / "py.typed").is_file()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["url"].endswith("2509.18919")
