"""What several processes of one run have to agree on."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

from detectron2.engine import defaults
from detectron2.utils import comm

from detectron2_agssp.utils.command_line import WRONG_USAGE

_Made = TypeVar("_Made")


def of_main(make: Callable[[], _Made]) -> _Made:
    """What the main process makes, in every process; all wait for it.

    Args:
        make: called in the main process alone; returns what can be pickled.

    Raises:
        Exception: in the main process, what ``make`` raises.
        SystemExit: in the others then.
    """
    if comm.get_world_size() == 1:
        return make()
    made, error = None, None
    if comm.is_main_process():
        try:
            made = make()
        except Exception as raised:
            error = raised
    # What follows waits for half an hour only.
    comm.synchronize()
    # Whether there was one, as not every exception can be pickled.
    made, failed = comm.all_gather((made, error is not None))[0]
    if error is not None:
        raise error
    if failed:
        raise SystemExit(WRONG_USAGE)
    return made


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
