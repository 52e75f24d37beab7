"""Training in several processes on CPUs, which Detectron2 knows only for GPUs."""

import contextlib
import functools
from collections.abc import Iterator

from detectron2.engine import defaults


@contextlib.contextmanager
def ddp_of(device: str) -> Iterator[None]:
    """While it lasts, Detectron2's trainer wraps models on a CPU too: otherwise it names the GPU of
    the process's number, which DistributedDataParallel refuses.

    Args:
        device: of the model, as in ``MODEL.DEVICE``.
    """
    stock = defaults.create_ddp_model
    if device == "cpu":
        defaults.create_ddp_model = functools.partial(stock, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = stock
