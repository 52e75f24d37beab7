"""Freed memory stays with the process."""

import resource
import sys

import pytest
import torch

from detectron2_agssp.utils.cpu_memory import keep_freed_memory
from tests.child_process import run_in_child


def count_page_faults(keep: bool) -> None:
    """Fails unless pages are mapped anew for each tensor, in the long run, exactly where they are
    to be."""
    if keep and not keep_freed_memory():
        raise SystemExit(3)
    # The heap grows for the first few: a small block that lands behind a freed one leaves a gap
    # just too narrow for the next with its alignment.
    for _ in range(32):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MiB, 16384 pages
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    raise SystemExit(0 if (faults < 1000) is keep else 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("keep", [True, False])
def test_page_faults(keep):
    code = run_in_child(count_page_faults, keep)
    if code == 3:
        pytest.skip("this malloc has no mallopt")
    assert code == 0
