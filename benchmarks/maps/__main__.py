"""Times map generation: decode, forward, score, write, all together, and the plain way.

    python -m benchmarks.maps IMAGE_DIR --config-file configs/maps/mahalanobis.yaml

The plain way is the same model in float32, one process, no loader workers; with CLIP, eager
attention, twice. Prints images/s, their ratio to the plain way, and the bottleneck.
"""

import torch
from tabulate import tabulate

from benchmarks.machine import describe_machine
from benchmarks.maps.throughput import measure_throughput
from detectron2_agssp.io.config_reading import config_from
from detectron2_agssp.utils.command_line import CommandParser, add_config_arguments, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory


def main() -> None:
    parser = CommandParser("python -m benchmarks.maps", __doc__)
    parser.add_argument("image_dir", help="folder of images")
    parser.add_argument("--num-images", type=int, default=128, help="default: 128")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in this process")
    add_config_arguments(parser)
    args = parser.parse()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    with readable_errors():
        cfg = config_from(args)
        result = measure_throughput(
            cfg, args.image_dir, num_images=args.num_images, rounds=args.rounds
        )
    rows = [[name, rate, rate / result.rates["plain"]] for name, rate in result.rates.items()]
    print(describe_machine())
    print(tabulate(rows, ["part", "images/s", "x plain"], tablefmt="github", floatfmt=".2f"))
    print(f"The bottleneck is {result.bottleneck}.")


if __name__ == "__main__":
    main()
