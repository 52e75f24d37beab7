"""Judges a map folder against masks: AUROC, AP, F1-max and AUPRO by class and on average.

    agssp evaluate maps MAP_DIR MASKS [--size 256] [--output table.json]

MASKS is a folder of masks with the images' relative paths (scratches/1.jpg -> scratches/1.png),
where a class is the first folder of an image's path; or a COCO json, whose boxes (or masks) are
the truth. Images without any are left out.
"""

import argparse

from detectron2_agssp.evaluation.map_folder import evaluate_map_folder, format_table
from detectron2_agssp.io.files import write_json
from detectron2_agssp.utils.command_line import readable_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map_dir")
    parser.add_argument("masks")
    parser.add_argument("--size", type=int, default=256, help="pixels a side; 0: the image's own")
    parser.add_argument("--threshold", type=int, default=127, help="mask values above are defect")
    parser.add_argument("--output", default="", metavar="FILE", help="also write the table as json")
    args = parser.parse_args()
    with readable_errors():
        table = evaluate_map_folder(
            args.map_dir, args.masks, size=args.size, threshold=args.threshold
        )
    print(format_table(table))
    if args.output:
        write_json(args.output, table)


if __name__ == "__main__":
    main()
