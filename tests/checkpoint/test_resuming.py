"""Checkpoints that were cut short."""

import pytest
import torch

from detectron2_agssp.checkpoint.resuming import forget_damaged_checkpoints


@pytest.fixture
def run(tmp_path):
    for name in ("model_0000001.pth", "model_0000003.pth", "model_final.pth"):
        torch.save({"model": {"weight": torch.zeros(100)}}, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def test_whole_checkpoints_stay(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert forget_damaged_checkpoints(run) == []
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_newest_whole_one_is_the_last(run):
    cut(run / "model_final.pth")
    (run / ".agssp-1.tmp").write_bytes(b"half")
    assert forget_damaged_checkpoints(run) == ["model_final.pth"]
    assert (run / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not list(run.glob(".agssp*"))


def test_without_a_whole_one_there_is_none(run):
    for path in run.glob("*.pth"):
        cut(path)
    assert len(forget_damaged_checkpoints(run)) == 3
    assert not (run / "last_checkpoint").exists()


@pytest.mark.parametrize("name", [b"", b"../elsewhere.pth", b"\xff\0"])
def test_a_name_of_no_checkpoint(run, name):
    (run.parent / "elsewhere.pth").touch()
    (run / "last_checkpoint").write_bytes(name)
    forget_damaged_checkpoints(run)
    assert (run / "last_checkpoint").read_text() == "model_0000003.pth"
