"""Frames per second of a detector, one image at a time.

    python -m benchmarks.inference --config-file configs/finetune/faster_rcnn_lite0_fpn.yaml \
        IMAGE_DIR MODEL.WEIGHTS output/finetune/faster_rcnn_lite0_fpn/model_final.pth

End to end is from the file to boxes in memory; the model alone has its input resized and ready.
"""

import torch
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.inference.speed import measure_inference
from benchmarks.machine import describe_machine
from detectron2_agssp.io.config_reading import config_from
from detectron2_agssp.utils.command_line import CommandParser, add_config_arguments, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory
from detectron2_agssp.utils.precision import PRECISIONS


def main() -> None:
    parser = CommandParser("python -m benchmarks.inference", __doc__)
    parser.add_argument("image_dir", help="folder of images")
    parser.add_argument("--num-images", type=int, default=100, help="default: 100")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    add_config_arguments(parser)
    args = parser.parse()
    keep_freed_memory()
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    with readable_errors():
        cfg = config_from(args)
        speeds = measure_inference(
            cfg, args.image_dir, num_images=args.num_images, precision=args.precision
        )
    rows = [
        [name, one.frames_per_second, one.milliseconds, one.slow_milliseconds]
        for name, one in speeds.items()
    ]
    print(f"{describe_machine(cfg.MODEL.DEVICE)}, {args.precision}, batch 1")
    headers = ["part", "images/s", "median ms", "95 % ms"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
