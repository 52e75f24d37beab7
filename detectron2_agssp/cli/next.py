"""Chooses the images to label next, and guesses their boxes.

An image is worth a label where the detector is uncertain, where its anomaly map has mass that no
detection explains, or where it is unlike the labelled images; of near-duplicates one is chosen at
most. OUT.txt gets a path per line; OUT_guesses/ report.html, and the guesses as annotations.json
(COCO), yolo/ and voc/, to be corrected in any labelling tool. After an interruption the same
command goes on.
"""

import argparse

from detectron2_agssp.utils.command_line import add_tile_arguments, options_of

HELP = "which images to label next, with guessed boxes"
GO_ON = "The same command again goes on: what was looked at is kept."
EXAMPLE = "agssp next output/finetune images --count 50 --maps maps next.txt"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN",
        help="output folder of agssp train, or a weight file in it; - where there is none yet: "
        "maps and features decide alone",
    )
    parser.add_argument("images", metavar="IMAGES", help="folder, or list of images")
    parser.add_argument("output", metavar="OUT.txt", help="file to write, a path per line")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many to choose")
    parser.add_argument("--maps", metavar="MAPS", help="map folder of the same images")
    parser.add_argument(
        "--per-source", action="store_true", help="N of each source, an image's first folder"
    )
    add_tile_arguments(parser)
    parser.add_argument(
        "opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="pairs that override the run's config; without a run, such as AGSSP.BOXES.MARGIN 0.2",
    )


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from detectron2_agssp.inference.next_images import next_images

    setup_logger(name="detectron2_agssp")
    chosen = next_images(
        args.run,
        args.images,
        args.output,
        count=args.count,
        maps=args.maps,
        per_source=args.per_source,
        tile=args.tile,
        options=options_of(args),
    )
    folder = args.output.rsplit(".", 1)[0] + "_guesses"
    print(f"{len(chosen)} images in {args.output}: see {folder}/report.html")
