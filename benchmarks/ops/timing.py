"""Times the operators side by side with plain PyTorch, ``torch.compile`` and other libraries."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HEADER = ("case", "way", "ms", "x faster than the second", "of the floor", "peak MiB", "error")
# Seconds after which a case has no further round.
LONGEST = 8.0


@dataclass
class Case:
    """One operator at one shape.

    Attributes:
        ways: name -> what is timed: "ours", then what the ratios refer to, then others.
        exact: the result in float64, which that of "ours" is compared to; None: no comparison.
        result: takes from the result of "ours" what is compared.
        moved: bytes that have to be read and written; or ``flops``: operations of a matrix product
            in ``flops_dtype``.
    """

    name: str
    ways: dict[str, Callable[[], object]]
    exact: Callable[[], Tensor] | None = None
    result: Callable[[object], Tensor] = lambda result: result
    moved: float = 0.0
    flops: float = 0.0
    flops_dtype: torch.dtype = torch.float32


def measure(case: Case, device: torch.device, floor: dict, rounds: int) -> list[list[str]]:
    """Rows of HEADER, medians. The ways take turns, so that a change in the machine's load hits all
    of them; who is faster than ours is said beside the case."""
    peaks, error = {}, ""
    for name, way in case.ways.items():
        result, peaks[name] = _first_call(way, device)
        if name == "ours" and case.exact is not None:
            difference = case.result(result).double() - case.exact()
            error = f"{difference.abs().max().item():.1e}"
    times = {name: [] for name in case.ways}
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, way in case.ways.items():
            times[name].append(seconds(way, device))
        if time.perf_counter() - begin > LONGEST:
            break
    medians = {name: statistics.median(of_way) for name, of_way in times.items()}
    base = list(medians.values())[1]
    least = case.moved / floor["copy"] + case.flops / floor[case.flops_dtype]
    rows = [
        ["", name, f"{1e3 * median:.3g}", f"{base / median:.2f}", "", peaks[name], ""]
        for name, median in medians.items()
    ]
    faster = [name for name in medians if medians[name] < medians["ours"]]
    rows[0][0] = case.name + (f"; LOSES to {', '.join(faster)}" if faster else "")
    rows[0][4] = f"{least / medians['ours']:.0%}"
    rows[0][6] = error
    return rows


def seconds(way: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        once = _cuda_seconds(way, 1)
        # Several of what is short, so that the queue is not what is measured.
        return once if once > 0.1 else _cuda_seconds(way, 10)
    begin = time.perf_counter()
    way()
    return time.perf_counter() - begin


def _cuda_seconds(way: Callable[[], object], count: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        way()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / count


def _first_call(way: Callable[[], object], device: torch.device) -> tuple[object, str]:
    """What it returns, and the MiB that one more call adds at most; "" on the CPU, where PyTorch
    does not tell."""
    result = way()
    if device.type != "cuda":
        return result, ""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    way()
    return result, f"{(torch.cuda.max_memory_allocated(device) - before) / 2**20:.0f}"


def measure_floor(device: torch.device, quick: bool) -> dict:
    """Of a copy, the bytes/s read and written ("copy"); of a matrix product, operations/s (its
    dtype)."""
    # Random: a GPU multiplies constants faster.
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2**22 if quick else 2**26, generator=generator).to(device)
    target = torch.empty_like(source)
    floor = {"copy": 8 * len(source) / _least(lambda: target.copy_(source), device)}
    # A GPU is not filled by smaller ones.
    size = 256 if quick else 8192 if device.type == "cuda" else 2048
    values = source[: size**2].view(size, size)
    for dtype in (torch.float32, torch.bfloat16):
        matrix = values.to(dtype)
        floor[dtype] = 2 * size**3 / _least(lambda m=matrix: m @ m, device)
    return floor


def _least(way: Callable[[], object], device: torch.device) -> float:
    way()
    return min(seconds(way, device) for _ in range(5))
