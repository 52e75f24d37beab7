"""Judges a map folder against masks: AUROC, AP, F1-max and AUPRO by class and on average.

MASKS is a folder of masks with the images' relative paths (scratches/1.jpg -> scratches/1.png),
where a class is the first folder of an image's path; or a COCO json, whose boxes (or masks) are
the truth. Images without any are left out.
"""

import argparse

HELP = "maps against masks or labels: AUROC, AP, F1-max, AUPRO"
EXAMPLE = "agssp evaluate maps maps masks --output table.json"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", metavar="MAPS", help="map folder")
    parser.add_argument("masks", metavar="MASKS", help="folder of masks, or COCO json")
    parser.add_argument(
        "--size", type=int, default=256, help="pixels a side; 0: the image's own (default: 256)"
    )
    parser.add_argument(
        "--threshold", type=int, default=127, help="mask values above are defect (default: 127)"
    )
    parser.add_argument("--output", default="", metavar="FILE", help="also write the table as json")


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.evaluation.map_folder import evaluate_map_folder, format_table
    from detectron2_agssp.io.files import write_json

    table = evaluate_map_folder(args.maps, args.masks, size=args.size, threshold=args.threshold)
    print(format_table(table))
    if args.output:
        write_json(args.output, table)
