"""A config from a file and pairs: what is nearest to a mistyped name; nothing runs code."""

import argparse

import pytest
import torch
from detectron2.config import get_cfg

from detectron2_agssp.io.config_reading import config_from, read_config, use_available_device
from tests.tiny_models import CONFIGS


def test_file_and_pairs():
    opts = ["SOLVER.MAX_ITER", "7", "AGSSP.DISTILL.LOSS_WEIGHTS", "(1.0, 0.5)"]
    cfg = read_config("agssp://agbp/R50.yaml", opts)
    expected = get_cfg()
    expected.merge_from_file(str(CONFIGS / "agbp/R50.yaml"))
    expected.merge_from_list(opts)
    assert cfg == expected
    assert cfg == read_config(CONFIGS / "agbp/R50.yaml", opts)
    assert read_config() == get_cfg()
    args = argparse.Namespace(config_file="", opts=[], allow_unsafe_config=False)
    assert config_from(args).is_frozen()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["AGSSP.SCORER.IMAGESIZE", "3"],
            "there is no key AGSSP.SCORER.IMAGESIZE. Did you mean AGSSP.SCORER.IMAGE_SIZE?",
        ),
        (["agssp.boxes.margin", "3"], "Did you mean AGSSP.BOXES.MARGIN?"),
        (["QQ", "3"], r"there is no key QQ\.$"),
        (["AGSSP.SCORER.NAME"], r"\['AGSSP.SCORER.NAME'\]: the last key has no value"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER many: Type mismatch"),
    ],
)
def test_pairs_that_do_not_serve(opts, message):
    with pytest.raises(ValueError, match=message):
        read_config(opts=opts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "AGSSP: {BOXES: {MARGINS: 1}}",
            r"there is no key AGSSP.BOXES.MARGINS.* AGSSP.BOXES.MARGIN",
        ),
        ("AGSSP: [1, 2\n", "own.yaml"),
        ("AGSSP: 3\n", "own.yaml"),
        ("- a list\n", "own.yaml"),
        ("just words", "own.yaml"),
        ("", "own.yaml"),
        ("_BASE_: own2.yaml\n", r"own\.yaml: its _BASE_ is missing .*own2\.yaml"),
        ("_BASE_: own.yaml\n", r"own\.yaml: .* its _BASE_ leads back to it"),
        ("MODEL: " + "[" * 5000, r"own\.yaml: it is nested too deep"),
    ],
)
def test_files_that_do_not_serve(tmp_path, content, message):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_config(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ownn.yaml", r"There is no config file .*ownn\.yaml\. Did you mean own\.yaml\?"),
        ("configs/agbp/R50.yaml", r"The shipped one is agssp://agbp/R50\.yaml"),
        ("absent/other.yaml", r"There is no config file absent/other\.yaml\.$"),
        ("agssp://agbp/R5O.yaml", r"Did you mean agssp://agbp/R50\.yaml\?"),
    ],
)
def test_missing_files(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").touch()
    with pytest.raises(FileNotFoundError, match=message):
        read_config(name)


@pytest.mark.parametrize("way", ["file", "base"])
def test_a_file_that_would_run_code_is_refused_by_name(tmp_path, way):
    marker = tmp_path / "marker"
    bad, own = tmp_path / "bad.yaml", tmp_path / "own.yaml"
    bad.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{marker}']\n")
    own.write_text("_BASE_: bad.yaml\nVERSION: 2\n")
    message = (
        r"bad\.yaml is not read: the tag !!python/object/apply:os\.mkdir builds Python objects"
    )
    with pytest.raises(ValueError, match=message):
        read_config(bad if way == "file" else own)
    assert not marker.exists()


def test_who_trusts_a_file_may_say_so(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("VERSION: 2\nOUTPUT_DIR: !!python/object/apply:os.path.join [a, b]\n")
    with pytest.raises(ValueError, match="--allow-unsafe-config"):
        read_config(own)
    assert read_config(own, allow_unsafe=True).OUTPUT_DIR == "a/b"


@pytest.mark.parametrize("frozen", [True, False])
def test_without_a_gpu_the_device_is_the_cpu(monkeypatch, caplog, frozen):
    cfg = get_cfg()
    if frozen:
        cfg.freeze()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    use_available_device(cfg)
    assert cfg.MODEL.DEVICE == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    use_available_device(cfg)
    assert (cfg.MODEL.DEVICE, cfg.is_frozen()) == ("cpu", frozen)
    assert "No GPU is visible: MODEL.DEVICE cuda becomes cpu." in caplog.text


def test_home_in_the_output_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = read_config("", ["OUTPUT_DIR", "~/runs/a"])
    assert f"{tmp_path}/runs/a" == cfg.OUTPUT_DIR
