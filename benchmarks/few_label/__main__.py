"""AGSSP against other starts on few labels: runs a benchmark file, then writes table and plot.

    python -m benchmarks.few_label --config-file benchmarks/few_label/neu_det_cpu.yaml --jobs 2
    python -m benchmarks.few_label --config-file ... --report-only      of what is finished
    python -m benchmarks.few_label --update-docs docs/benchmark.md      its generated tables

Killed at any moment, it goes on when called again; another call beside it shares the work.
"""

from pathlib import Path

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.few_label.documents import update_document
from benchmarks.few_label.results import write_report
from benchmarks.few_label.schedule import run_benchmark
from benchmarks.few_label.settings import CONFIGS, load_benchmark
from detectron2_agssp.utils.command_line import CommandParser, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory


def main() -> None:
    parser = CommandParser("python -m benchmarks.few_label", __doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--config-file", metavar="FILE", help="the benchmark")
    task.add_argument(
        "--update-docs",
        nargs="+",
        metavar="FILE",
        help="bring the tables in these documents up to date with benchmarks/results; run nothing",
    )
    parser.add_argument(
        "--output", type=Path, help="weights and logs (output/few_label/<name of the file>)"
    )
    parser.add_argument("--results", type=Path, help="cells, table and plot (<output>/results)")
    parser.add_argument(
        "--arms", nargs="+", default=[], help="instead of the file's; also variants"
    )
    parser.add_argument(
        "--fractions", nargs="+", type=float, default=(), help="percents, instead of the file's"
    )
    parser.add_argument("--device", help="that trains and makes maps, such as cuda (the configs')")
    parser.add_argument("--jobs", type=int, default=1, help="processes; on a CPU, one a core")
    parser.add_argument(
        "--validate-only",
        action="store_true",
        help="try the learning rates, and test nothing: to choose among variants",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    args = parser.parse()
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    keep_freed_memory()
    with readable_errors():
        if args.update_docs:
            for path in args.update_docs:
                print(f"{path}: {'updated' if update_document(path) else 'up to date'}")
            return
        benchmark = load_benchmark(args.config_file, args.arms, args.fractions)
        output, results = benchmark.folders(args.output, args.results)
        if not args.report_only:
            run_benchmark(
                benchmark,
                CONFIGS,
                output,
                results,
                jobs=args.jobs,
                validate_only=args.validate_only,
                device=args.device,
            )
        print(write_report(benchmark, results))


if __name__ == "__main__":
    main()
