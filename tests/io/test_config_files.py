"""Shipped configs, by name and as ``agssp://`` wherever Detectron2 reads a config."""

import json

import fvcore.common.file_io
import pytest
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import g_pathmgr

from detectron2_agssp.io import config_files
from detectron2_agssp.io.config_files import config_names, config_path, config_root
from tests.tiny_models import CONFIGS


def test_in_a_checkout_the_configs_are_the_repository_s():
    assert config_root() == CONFIGS
    assert config_path("agbp/R50.yaml") == CONFIGS / "agbp" / "R50.yaml"
    assert config_path("agssp://agbp/../agbp/R50.yaml") == CONFIGS / "agbp" / "R50.yaml"
    names = config_names()
    assert {"agbp/R50.yaml", "base/agbp.yaml", "lazy/agbp_lite0.py"} <= set(names)
    assert names == sorted(names)


def test_in_a_wheel_they_are_the_package_s_own(tmp_path, monkeypatch):
    package = tmp_path / "detectron2_agssp"
    (package / "io").mkdir(parents=True)
    (package / "configs" / "agbp").mkdir(parents=True)
    (package / "configs" / "agbp" / "own.yaml").touch()
    monkeypatch.setattr(config_files, "__file__", str(package / "io" / "config_files.py"))
    assert config_names() == ["agbp/own.yaml"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agbp/R5O.yaml", "agssp://agbp/R5O.yaml. Did you mean agssp://agbp/R50.yaml?"),
        ("agssp://agbp/lite.yaml", "Did you mean agssp://agbp/lite0.yaml?"),
        ("nothing_like_it", "There are configs in: agbp, agdp, base"),
        ("agbp", "no shipped config agssp://agbp"),
        ("../README.md", "leads out of the shipped configs"),
        ("agssp://../../x.yaml", "leads out of the shipped configs"),
        ("agssp:///etc/passwd", "leads out of the shipped configs"),
    ],
)
def test_errors_name_the_nearest(name, message):
    with pytest.raises(FileNotFoundError, match="shipped config") as error:
        config_path(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "manager",
    [PathManager, g_pathmgr, fvcore.common.file_io.PathManager],
    ids=["Detectron2", "iopath", "fvcore"],
)
def test_path_managers(manager):
    assert manager.isfile("agssp://agbp/R50.yaml")
    assert manager.isdir("agssp://agbp")
    assert manager.exists("agssp://agbp")
    assert not manager.exists("agssp://nothing.yaml")
    assert "R50.yaml" in manager.ls("agssp://agbp")
    assert manager.get_local_path("agssp://agbp/R50.yaml") == str(CONFIGS / "agbp" / "R50.yaml")
    with manager.open("agssp://agbp/R50.yaml", "rb") as file:
        assert file.read() == (CONFIGS / "agbp" / "R50.yaml").read_bytes()
    with pytest.raises(ValueError, match="can be read, not written"):
        manager.open("agssp://agbp/R50.yaml", "w")


def test_a_missing_one_is_not_a_file_and_the_log_names_the_nearest(caplog):
    assert not PathManager.isfile("agssp://agbp/R5O.yaml")
    assert "Did you mean agssp://agbp/R50.yaml?" in caplog.text


def loaded(path) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("name", ["agbp/R50.yaml", "agdp/faster_rcnn_lite0_fpn.yaml"])
def test_merging_a_config_with_a_relative_base(name):
    assert loaded(f"agssp://{name}") == loaded(CONFIGS / name)


def test_a_config_of_the_user_may_stand_on_a_shipped_one(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: agssp://agbp/R50.yaml\nSOLVER: {MAX_ITER: 7}\n")
    expected = loaded("agssp://agbp/R50.yaml")
    expected.SOLVER.MAX_ITER = 7
    assert loaded(own) == expected
    monkeypatch.chdir(tmp_path)
    assert loaded("own.yaml") == expected
    several = tmp_path / "several.yaml"
    bases = ["agssp://agbp/lite0.yaml", "own.yaml"]
    several.write_text(f"_BASE_: {json.dumps(bases)}\nVERSION: 2\n")
    assert loaded(several).SOLVER.MAX_ITER == 7


def test_lazy_configs_with_relative_imports():
    name = "lazy/agdp_faster_rcnn_lite0_fpn.py"
    found, expected = LazyConfig.load(f"agssp://{name}"), LazyConfig.load(str(CONFIGS / name))
    assert found.train == expected.train
    assert found.model.keys() == expected.model.keys()
