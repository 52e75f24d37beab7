"""Work on several pieces at once, with the results in order."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


def in_lanes(work: Callable, pieces: Iterable, count: int) -> Iterator[Any]:
    """Yields ``work(piece)`` of each piece, in their order; so many at a time, in threads that
    share the cores of PyTorch between them.

    On a CPU several small batches side by side take less time than one after the other on all
    cores: much of a detector (NMS, indexing, reading images) runs on one core alone. Only a few
    pieces are taken ahead of what is yielded.
    """
    if count <= 1:
        yield from map(work, pieces)
        return
    threads = torch.get_num_threads()
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(
        count, initializer=torch.set_num_threads, initargs=(max(threads // count, 1),)
    ) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            # MKL's number is the process's own.
            torch.set_num_threads(threads)
