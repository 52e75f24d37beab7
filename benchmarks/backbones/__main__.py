"""What an AGBP iteration costs, by shipped config: seconds, memory, ratios to EfficientNet-Lite0.

    python -m benchmarks.backbones [--batch 2] [--iterations 5] [--output FILE]

Random weights and noise at the config's crop, forward, backward and a step of its optimiser; the
median of the iterations after the first. Each config runs in a process of its own, whose peak
memory is what the iterations add to the built model's.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEADER = ["config", "parameters, M", "s/iteration", "x lite0", "added memory, MiB"]


def measure(name: str, batch: int, iterations: int) -> dict[str, float]:
    """Of ``agbp/<name>.yaml``: ``parameters``, ``seconds`` per iteration, ``num_bytes`` added."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.utils.events import EventStorage

    import detectron2_agssp  # noqa: F401  (registers everything)
    from detectron2_agssp.engine import AGSSPTrainer
    from detectron2_agssp.modeling.pretext.moco_v3 import SECOND_VIEW

    cfg = get_cfg()
    cfg.merge_from_file(f"agssp://agbp/{name}.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "VIS_PERIOD", 0])
    torch.manual_seed(0)
    model = AGSSPTrainer.build_model(cfg).train()
    optimizer = AGSSPTrainer.build_optimizer(cfg, model)
    height, width = cfg.INPUT.CROP.SIZE
    source = next(iter(getattr(model.pretext, "sources", {"": 0})), "")
    if cfg.AGSSP.PRETEXT.NAME == "SourceClassification":
        model.pretext.sources = {source: 0}
    inputs = [
        {
            "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
            SECOND_VIEW: torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
            "anomaly_map": torch.rand(1, height, width),
            "source": source,
        }
        for _ in range(batch)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    with EventStorage():
        for _ in range(iterations + 1):
            start = time.perf_counter()
            optimizer.zero_grad()
            sum(model(inputs).values()).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    trained = model.backbone.parameters()
    return {
        "parameters": sum(parameter.numel() for parameter in trained),
        "seconds": statistics.median(seconds[1:]),
        "num_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2, help="images per iteration (default: 2)")
    parser.add_argument("--iterations", type=int, default=5, help="timed ones (default: 5)")
    parser.add_argument("--output", type=Path, help="file for the table, besides the screen")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.batch, args.iterations)))
        return
    from tabulate import tabulate

    from benchmarks.machine import describe_machine
    from detectron2_agssp.io.config_files import config_names

    names = [name[5:-5] for name in config_names() if name.startswith("agbp/")]
    costs = {}
    for name in sorted(names, key=lambda name: name != "lite0"):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.backbones", "--only", name]
        command += ["--batch", str(args.batch), "--iterations", str(args.iterations)]
        costs[name] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    reference = costs["lite0"]["seconds"]
    rows = [
        [
            name,
            f"{cost['parameters'] / 1e6:.1f}",
            f"{cost['seconds']:.2f}",
            f"{cost['seconds'] / reference:.1f}",
            f"{cost['num_bytes'] / 2**20:.0f}",
        ]
        for name, cost in costs.items()
    ]
    table = tabulate(rows, HEADER, tablefmt="github", disable_numparse=True)
    text = f"{describe_machine()}, batch {args.batch}\n\n{table}"
    print(text)
    if args.output:
        args.output.write_text(f"# What an AGBP iteration costs\n\n{text}\n")


if __name__ == "__main__":
    main()
