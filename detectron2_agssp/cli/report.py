"""Shows a map folder: one HTML report, or panels of image, map, overlay and pseudo-boxes.

Panels are written as OUT/<image>.png, the report as OUT/report.html: one file that opens from
disk. Boxes are cut at the folder's threshold by the config's AGSSP.BOXES.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments, split_config_pairs

HELP = "an HTML report, or panels, of a map folder"
EXAMPLE = "agssp report maps out AGSSP.BOXES.MARGIN 0.2"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", metavar="MAPS", help="map folder")
    parser.add_argument("output", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--panels", action="store_true", help="write pictures of single images, not report.html"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="PATH",
        help="the pictures of these: paths or patterns ('line2/*') as in the manifest",
    )
    parser.add_argument(
        "--num",
        type=int,
        metavar="N",
        help="panels at most, a seeded sample (default: 16, or all of --images); in a report, "
        "panels in each of its three groups (default: 6)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--image-root", metavar="DIR", help="where the images are, if they moved")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from detectron2_agssp.io.config_reading import config_from
    from detectron2_agssp.reports.map_panels import write_map_panels
    from detectron2_agssp.reports.map_report import write_map_report

    args.images, pairs = split_config_pairs(args.images)
    args.opts = [*args.opts, *pairs]
    options = {"image_root": args.image_root, "seed": args.seed}
    cfg = config_from(args)
    if not args.panels and not args.images:
        num = 6 if args.num is None else args.num
        path = Path(args.output) / "report.html"
        print(
            "Report written to", write_map_report(cfg, args.maps, path, num_panels=num, **options)
        )
        return
    num = args.num if args.num is not None or args.images else 16
    options |= {"images": args.images, "num": num}
    panels = write_map_panels(cfg, args.maps, args.output, **options)
    print(f"{len(panels)} panels written to {args.output}")
