"""Which implementation of the operators a test runs, and on which device."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import pytest
import torch

from detectron2_agssp.ops import native

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


class Implementation(NamedTuple):
    kind: str  # "reference" or "native", as AGSSP_OPS has it
    device: str

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within it the operators run this way, and new tensors are on the device."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(native, "WANTED", self.kind))
            if self.device != "cpu":
                stack.enter_context(torch.device(self.device))
            yield

    def parameter(self):
        compiled = native.compiled_devices()
        missing = self.kind == "native" and self.device not in compiled
        reason = native.MISSING or f"the compiled library has no kernels for {self.device}"
        marks = [pytest.mark.skipif(missing, reason=f"compiled operators: {reason}")]
        return pytest.param(self, marks=marks, id=f"{self.kind}-{self.device}")


REFERENCE = [Implementation("reference", device).parameter() for device in DEVICES]
NATIVE = [Implementation("native", device).parameter() for device in DEVICES]
# Of a test that uses the fixture "implementation".
only_reference = pytest.mark.parametrize("implementation", REFERENCE, indirect=True)
only_compiled = pytest.mark.parametrize("implementation", NATIVE, indirect=True)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal values, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, device="cpu")
    return values.to(torch.get_default_device(), dtype)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    """Values in [0, 1), the same on every device."""
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")
    return values.to(torch.get_default_device())
