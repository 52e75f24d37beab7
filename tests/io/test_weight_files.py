"""Weight files: what is read of them, and what is refused without having been run."""

import argparse
import collections
import logging
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from detectron2_agssp.io.weight_files import (
    WeightFileError,
    is_whole,
    read_weight_file,
    state_dict_of,
)

WEIGHT = torch.arange(6.0).view(2, 3)


class Harm:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def dump(content, path: Path, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_arrays_and_tensors(tmp_path, protocol):
    """As Detectron2's ImageNet and model-zoo files are."""
    arrays = {"conv1_w": WEIGHT.numpy(), "half": np.float16([1, 2]), "number": np.float64(3)}
    zoo = {"model": arrays, "__author__": "Detectron2", "tensor": WEIGHT}
    ordered = collections.OrderedDict(zoo)
    for content in (zoo, ordered):
        read = read_weight_file(dump(content, tmp_path / "model.pkl", protocol))
        assert read["__author__"] == "Detectron2"
        assert torch.equal(read["tensor"], WEIGHT)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read["model"][name], array)
            assert read["model"][name].dtype == array.dtype


def test_a_pickle_of_python_2(tmp_path):
    """NumPy's state as Python 2 has it: bytes as text, to be read as latin1."""
    array = np.float32([1.5, -2])
    pickled = pickle.dumps({"w": array}, protocol=2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "R-50.pkl").write_bytes(pickled)
    np.testing.assert_array_equal(read_weight_file(tmp_path / "R-50.pkl")["w"], array)


@pytest.mark.parametrize("legacy", [True, False])
def test_torch_files_with_numpy_s_numbers(tmp_path, legacy):
    content = {"state_dict": {"w": WEIGHT}, "best": np.float64(0.5), "curve": np.arange(3)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    read = read_weight_file(tmp_path / "a.pth")
    assert read["best"] == 0.5
    assert torch.equal(state_dict_of(read, "a.pth")["w"], WEIGHT)


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": WEIGHT}, tmp_path / "a.safetensors")
    assert torch.equal(read_weight_file(tmp_path / "a.safetensors")["w"], WEIGHT)


@pytest.mark.parametrize("name", ["a.pkl", "a.pth", "zip.pkl", "nested.pkl"])
def test_code_is_refused_by_name_and_not_run(tmp_path, name):
    marker, path = tmp_path / "marker", tmp_path / name
    content = {"model": {"w": WEIGHT}, "__author__": Harm(marker)}
    if name == "nested.pkl":
        # A tensor's own pickle has one of PyTorch's inside, which would be read without care.
        assert b"_load_from_bytes" in pickle.dumps(WEIGHT)
        torch.save(Harm(marker), tmp_path / "inner.pth")
        bytes_of = (tmp_path / "inner.pth").read_bytes()
        path.write_bytes(pickle.dumps(_Storage(bytes_of)))
    elif name == "a.pkl":
        dump(content, path)
    else:
        torch.save(content, path)
    with pytest.raises(WeightFileError, match=f"{name} ") as error:
        read_weight_file(path)
    assert not marker.exists()
    if name != "nested.pkl":
        assert "holds more than tensors" in str(error.value)
        assert "touch" in str(error.value) or "getattr" in str(error.value)
    for advice in ("weights_only", "allow_pickle"):
        assert advice not in str(error.value)
    assert error.value.__suppress_context__


class _Storage:
    def __init__(self, content: bytes):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


DAMAGED = {
    "disks.pth": (lambda whole: whole[:-50] + b"\1" + whole[-49:], "cannot be read"),
    "empty.pth": (lambda whole: b"", "is empty"),
    "half.pth": (lambda whole: whole[: len(whole) // 2], "is cut short"),
    "flipped.pth": (lambda whole: whole[:80] + b"\0" * 200 + whole[280:], "cannot be read"),
    "page.pth": (lambda whole: b"<!DOCTYPE html><p>404", "is a web page"),
    "pointer.pth": (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "noise.pth": (lambda whole: bytes(range(256)), "cannot be read as weights"),
    "noise.pkl": (lambda whole: bytes(range(1, 256)), "cannot be read as weights"),
    "cut.pkl": (lambda whole: pickle.dumps({"w": np.ones(99)})[:-40], "cannot be read as weights"),
    "noise.safetensors": (lambda whole: bytes(range(256)), "cannot be read as weights"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(tmp_path, name):
    damage, message = DAMAGED[name]
    torch.save({"model": {"w": torch.ones(500)}}, tmp_path / "whole.pth")
    (tmp_path / name).write_bytes(damage((tmp_path / "whole.pth").read_bytes()))
    with pytest.raises(WeightFileError, match=rf"{name} .*{message}") as error:
        read_weight_file(tmp_path / name)
    assert "weights_only" not in str(error.value)
    assert not is_whole(tmp_path / name)
    assert is_whole(tmp_path / "whole.pth")
    assert not is_whole(tmp_path / "absent.pth")


def test_a_bomb_is_not_unpacked(tmp_path):
    torch.save({"model": {"w": torch.ones(500)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/7", bytes(10_000_000))
    with pytest.raises(WeightFileError, match=r"a\.pth is compressed, as torch\.save never does"):
        read_weight_file(tmp_path / "a.pth")


def test_absent_files_are_named(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            read_weight_file(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "optimizer": {"state": {}}, "epoch": 3},
        lambda weights: {"model": weights},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {"student": {"w": WEIGHT * 0}, "teacher": weights},
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {f"_orig_mod.module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"model": {name: tensor.numpy() for name, tensor in weights.items()}},
    ],
)
def test_where_the_weights_are(wrap):
    weights = {"w": WEIGHT, "head.module.b": WEIGHT[0]}
    read = state_dict_of(wrap(weights), "a.pth")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("raw", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")]
)
def test_averaged_weights_are_preferred_and_it_is_said(caplog, raw, averaged):
    caplog.set_level(logging.INFO)
    content = {raw: {"w": WEIGHT}, averaged: {"module.w": WEIGHT + 1}}
    assert torch.equal(state_dict_of(content, "a.pth")["w"], WEIGHT + 1)
    assert f"a.pth holds raw weights ('{raw}') and averaged ones ('{averaged}')" in caplog.text
    content[averaged] = None
    assert torch.equal(state_dict_of(content, "a.pth")["w"], WEIGHT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"got the keys \(none\)"),
        ({"model": {"epoch": 3}}, "under 'model'.*got the keys epoch"),
        ([WEIGHT], "got one list"),
        (argparse.Namespace(), "got one Namespace"),
    ],
)
def test_files_without_weights(content, message):
    with pytest.raises(WeightFileError, match=f"a.pth holds no weights.*{message}"):
        state_dict_of(content, "a.pth")
