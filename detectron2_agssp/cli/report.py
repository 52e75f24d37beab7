"""Shows a map folder: panels of image, map, overlay and pseudo-boxes, or one HTML report.

    agssp report MAP_DIR OUTPUT_DIR --report
    agssp report MAP_DIR OUTPUT_DIR AGSSP.BOXES.MARGIN 0.2 --num 30
    agssp report MAP_DIR OUTPUT_DIR --images line1/plate7.png 'line2/*'

Panels are written as OUTPUT_DIR/<image>.png, the report as OUTPUT_DIR/report.html: one file that
opens from disk. Boxes are cut at the folder's threshold by the config's AGSSP.BOXES.
"""

import argparse
from pathlib import Path

from detectron2_agssp.reports.map_panels import write_map_panels
from detectron2_agssp.reports.map_report import write_map_report
from detectron2_agssp.utils.command_line import (
    add_config_arguments,
    config_from,
    readable_errors,
    split_config_pairs,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map_dir")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--report", action="store_true", help="write report.html, not panels")
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="PATH",
        help="draw these: paths or patterns as in the manifest",
    )
    parser.add_argument(
        "--num",
        type=int,
        help="panels at most, a seeded sample (default: 16, or all of --images); in a report, "
        "panels in each of its three groups (default: 6)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--image-root", metavar="DIR", help="where the images are, if they moved")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    args.images, pairs = split_config_pairs(args.images)
    args.opts += pairs
    if args.report and args.images:
        parser.error("--report chooses its images itself: leave out --images, or --report")
    options = {"image_root": args.image_root, "seed": args.seed}
    with readable_errors():
        cfg = config_from(args)
        if args.report:
            num = 6 if args.num is None else args.num
            path = Path(args.output) / "report.html"
            written = write_map_report(cfg, args.map_dir, path, num_panels=num, **options)
            print(f"Report written to {written}")
            return
        num = args.num if args.num is not None or args.images else 16
        panels = write_map_panels(
            cfg, args.map_dir, args.output, images=args.images, num=num, **options
        )
    print(f"{len(panels)} panels written to {args.output}")


if __name__ == "__main__":
    main()
