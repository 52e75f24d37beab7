"""Times the operators against eager PyTorch, torch.compile and other libraries.

    python -m benchmarks.ops --device cuda --output benchmarks/results/ops.md

Medians in milliseconds; ratios to the way under "ours" (above 1: faster than it); the share of what
the machine can do, which is a copy's bandwidth or a matrix product's rate measured here; the memory
that a call adds at its peak (GPU only); the largest error against float64. Cases that ours loses
say so. FAISS is timed if it is installed (`pip install faiss-cpu`).
"""

import sys
from pathlib import Path

import torch
from tabulate import tabulate

from benchmarks.machine import describe_machine
from benchmarks.ops.cases import cases
from benchmarks.ops.timing import HEADER, measure, measure_floor
from detectron2_agssp.ops import native
from detectron2_agssp.utils.command_line import CommandParser, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory


def main() -> None:
    parser = CommandParser("python -m benchmarks.ops", __doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default: cpu")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on the CPU")
    parser.add_argument("--quick", action="store_true", help="small inputs, to try the tool")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="WAY",
        help='such as "torch.compile", the slowest',
    )
    parser.add_argument("--output", type=Path, help="file for the table, besides the screen")
    args = parser.parse()
    # As in training; else the pages of fresh outputs are what a large map's backward is timed by.
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    with readable_errors():
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch sees no GPU.")
        floor = measure_floor(device, args.quick)
        rates = ", ".join(
            [f"copy {floor['copy'] / 1e9:.1f} GB/s"]
            + [
                f"{dtype} product {floor[dtype] / 1e9:.0f} Gflop/s"
                for dtype in floor
                if dtype != "copy"
            ]
        )
        operators = native.describe(native.compiled_devices())
        head = f"{describe_machine(args.device)}; operators {operators}; {rates}\n\n"
        rows: list[list[str]] = []
        text = head
        for case in cases(device, args.quick, args.only):
            print(case.name, file=sys.stderr, flush=True)
            case.ways = {way: f for way, f in case.ways.items() if way not in args.without}
            rows += measure(case, device, floor, args.rounds)
            text = head + tabulate(rows, HEADER, tablefmt="github", disable_numparse=True)
            # After each: a run that is cut off leaves what it had.
            if args.output:
                args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
