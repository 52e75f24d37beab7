"""Writes the pseudo-boxes of a map folder as COCO json, to look at or to use elsewhere.

AGDP itself does not need the file: PseudoBoxMapper cuts boxes, and masks where MODEL.MASK_ON is
True, from the maps while training.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments

HELP = "pseudo-boxes of a map folder as COCO json"
EXAMPLE = "agssp boxes maps boxes.json AGSSP.BOXES.MARGIN 0.2"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", metavar="MAPS", help="map folder")
    parser.add_argument("output", metavar="OUT.json", help="file to write")
    parser.add_argument(
        "--masks", action="store_true", help="segmentations, too: the components of the boxes"
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.boxes.coco_export import write_pseudo_boxes
    from detectron2_agssp.io.config_reading import config_from

    coco = write_pseudo_boxes(config_from(args), args.maps, args.output, masks=args.masks)
    with_boxes = len({annotation["image_id"] for annotation in coco["annotations"]})
    print(
        f"{len(coco['annotations'])} boxes in {with_boxes} of {len(coco['images'])} images, "
        f"threshold {coco['info']['threshold']:.4f}, written to {args.output}"
    )
