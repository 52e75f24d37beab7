"""Which implementation runs, and what is said of it."""

import pytest
import torch

from detectron2_agssp.ops import channel_energy, min_cosine_distance, native, text_anomaly_score

NAMES = ("channel_energy", "min_cosine_distance", "text_anomaly_score")
built = pytest.mark.skipif(bool(native.MISSING), reason=f"compiled operators: {native.MISSING}")


def run_all():
    return (
        channel_energy(torch.ones(1, 2, 3, 4)),
        min_cosine_distance(torch.ones(3, 4), torch.ones(2, 4)),
        text_anomaly_score(torch.ones(1, 3, 4), torch.eye(2, 4)),
    )


@pytest.mark.parametrize("choice", ["", "reference", "native"])
def test_the_variable_is_honoured(monkeypatch, choice):
    monkeypatch.setenv(native.VARIABLE, choice)
    assert native._wanted() == choice
    monkeypatch.setattr(native, "MISSING", "")
    monkeypatch.setattr(native, "WANTED", choice)
    described = native.describe(frozenset({"cpu"}))
    assert described == "compiled for cpu" + (f"; AGSSP_OPS={choice}" if choice else "")


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv(native.VARIABLE, "nonsense")
    message = "AGSSP_OPS is 'nonsense'. Choices: '', 'reference', 'native'."
    with pytest.raises(ValueError, match=message):
        native._wanted()


@built
@pytest.mark.parametrize("choice", ["", "native", "reference"])
def test_what_runs(monkeypatch, choice):
    called = []

    class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(native, "WANTED", choice)
    with Recorded():
        run_all()
    compiled = [name for name in called if name.startswith("detectron2_agssp.")]
    expected = [f"detectron2_agssp.{name}.default" for name in NAMES]
    assert compiled == ([] if choice == "reference" else expected)


@built
def test_every_operator_has_a_kernel_for_the_processor():
    for name in NAMES:
        assert "cpu" in native.register_native(name, lambda: None)


@pytest.mark.parametrize("choice", native.CHOICES)
@pytest.mark.parametrize("device", native.DEVICES)
def test_kernels_run_on_every_device_that_has_them(monkeypatch, device, choice):
    monkeypatch.setattr(native, "MISSING", "")
    monkeypatch.setattr(native, "WANTED", choice)
    compiled = native.use_native(frozenset(native.DEVICES), torch.device(device, 0))
    assert compiled == (choice != "reference")
    assert native.describe(frozenset(native.DEVICES)).startswith("compiled for cpu and cuda")


def test_unbuilt(monkeypatch):
    monkeypatch.setattr(native, "MISSING", "not built")
    devices = native.register_native("channel_energy", pytest.fail)
    assert devices == frozenset()
    assert native.describe(devices) == "pure PyTorch (compiled ones: not built)"
    monkeypatch.setattr(native, "WANTED", "")
    assert not native.use_native(devices, torch.device("cpu"))
    monkeypatch.setattr(native, "WANTED", "native")
    with pytest.raises(RuntimeError, match=r"AGSSP_OPS is 'native'.*on cpu: not built"):
        native.use_native(devices, torch.device("cpu"))


def test_a_library_that_does_not_load(monkeypatch, tmp_path, caplog):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    monkeypatch.setattr(native, "library_path", lambda: tmp_path / "_C.so")
    assert "built for another PyTorch" in native._load()
    assert "not used" in caplog.text
    monkeypatch.setattr(native, "library_path", lambda: None)
    assert "not built" in native._load()
