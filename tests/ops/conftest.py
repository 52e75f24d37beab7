"""What the operators' tests share."""

import pytest
import torch

from detectron2_agssp.ops import native


@pytest.fixture(params=["reference", "native"])
def implementation(request, monkeypatch) -> str:
    """Runs a test once with pure PyTorch, once with the compiled operators."""
    if request.param == "native" and native.MISSING:
        pytest.skip(f"compiled operators: {native.MISSING}")
    monkeypatch.setattr(native, "WANTED", request.param)
    return request.param


@pytest.fixture
def threads():
    """A generator: sets PyTorch's number of threads to each of the given, and back."""
    before = torch.get_num_threads()

    def each(numbers):
        for number in numbers:
            torch.set_num_threads(number)
            yield number

    yield each
    torch.set_num_threads(before)
