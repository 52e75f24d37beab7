"""What the operators' tests share."""

import pytest
import torch

from tests.ops.implementations import NATIVE, REFERENCE


@pytest.fixture(params=[*REFERENCE, *NATIVE])
def implementation(request):
    """Runs a test by pure PyTorch and by the compiled operators, on each device there is."""
    with request.param.active():
        yield request.param


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
