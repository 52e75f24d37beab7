"""Predicts boxes on new images with a trained detector.

IMAGES is a folder (searched recursively), an image, a video, or a .txt file with a path per line.
OUT gets predictions.json (COCO), report.html and pictures/. The same command again goes on after an
interruption, or with images that were added.
"""

import argparse

from detectron2_agssp.utils.command_line import add_tile_arguments, options_of

HELP = "boxes on new images: predictions.json, pictures, a report"
EXAMPLE = "agssp predict output/finetune images out --threshold auto --tile 512"
GO_ON = "The same command again goes on: the images that were predicted are kept."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="output folder of agssp train, or a weight file in it"
    )
    parser.add_argument("images", metavar="IMAGES", help="folder, image, video or list")
    parser.add_argument("output", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--threshold",
        default="0.5",
        metavar="SCORE",
        help="smallest score of a detection, or auto: that of the best F1 on the run's validation "
        "set (default: %(default)s)",
    )
    add_tile_arguments(parser)
    parser.add_argument(
        "--maps", metavar="MAPS", help="map folder of the same images, shown in the report"
    )
    parser.add_argument(
        "opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="pairs that override the run's config, such as AGSSP.PREDICT.PICTURES False",
    )


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from detectron2_agssp.inference.predict import predict
    from detectron2_agssp.io.files import user_path
    from detectron2_agssp.reports.skipped import SkippedFiles, read_skipped
    from detectron2_agssp.utils.cpu_memory import keep_freed_memory

    keep_freed_memory()
    setup_logger(name="detectron2_agssp")
    options = options_of(args)
    if args.maps is not None:
        options += ["AGSSP.PREDICT.MAPS", args.maps]
    found = predict(
        args.run,
        args.images,
        args.output,
        threshold=args.threshold,
        tile=args.tile,
        options=options,
    )
    count = sum(len(one["scores"]) for one in found.values())
    skipped = read_skipped(user_path(args.output)) or SkippedFiles()
    print(
        f"{count} detections in {len(found)} images (unreadable and skipped: {skipped.count}): "
        f"see {args.output}/report.html"
    )
