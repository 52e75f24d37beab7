"""Writes the pseudo-boxes of a map folder as COCO json, to look at or to use elsewhere.

    agssp boxes MAP_DIR OUTPUT.json AGSSP.BOXES.MARGIN 0.2

AGDP itself does not need the file: PseudoBoxMapper cuts boxes from the maps while training.
"""

import argparse

from detectron2_agssp.boxes.coco_export import write_pseudo_boxes
from detectron2_agssp.utils.command_line import add_config_arguments, config_from, readable_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map_dir")
    parser.add_argument("output", help="COCO json to write")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    with readable_errors():
        coco = write_pseudo_boxes(config_from(args), args.map_dir, args.output)
    with_boxes = len({annotation["image_id"] for annotation in coco["annotations"]})
    print(
        f"{len(coco['annotations'])} boxes in {with_boxes} of {len(coco['images'])} images, "
        f"threshold {coco['info']['threshold']:.4f}, written to {args.output}"
    )


if __name__ == "__main__":
    main()
