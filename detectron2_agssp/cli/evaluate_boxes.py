"""Judges the pseudo-boxes of a map folder, or boxes of a COCO json, such as what a detector found,
against labels that pretraining did not see.

Of each threshold, and of the one by which AGDP cuts its boxes (marked *; of a json, of all boxes):
precision and recall at --iou, whether the labels were hit at all (a box's centre lies in them), the
boxes per image, and the share of images without; then recall by class of the label, and precision
by source of the image. Images of the labels' json without labels are free of defects: every box
there is wrong. The last line says whether the boxes are better than boxes at random, and what to do
if they are not.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments

HELP = "pseudo-boxes against labels: precision and recall"
EXAMPLE = "agssp evaluate boxes maps labels.json --images labelled --thresholds 0.2,0.3"


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("boxes", metavar="BOXES", help="map folder, or COCO json")
    parser.add_argument("labels", metavar="LABELS.json", help="COCO json")
    parser.add_argument(
        "--images",
        metavar="IMAGES",
        help="folder of the labelled images where a map folder does not have them: they are "
        "scored with its fitted scorer",
    )
    parser.add_argument(
        "--thresholds",
        type=_numbers,
        metavar="T,T,...",
        help="in [0, 1), separated by commas (default: 0.1 to 0.9)",
    )
    parser.add_argument(
        "--iou", type=float, default=0.5, help="of a box that matches a label (default: 0.5)"
    )
    parser.add_argument("--output", default="", metavar="FILE", help="also write all as json")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.evaluation import judge_boxes
    from detectron2_agssp.evaluation.box_statistics import THRESHOLD_GRID
    from detectron2_agssp.evaluation.box_tables import as_json, format_evaluation
    from detectron2_agssp.io.config_reading import config_from
    from detectron2_agssp.io.files import write_json

    judged = judge_boxes(
        config_from(args),
        args.boxes,
        args.labels,
        image_root=args.images,
        thresholds=args.thresholds or THRESHOLD_GRID,
        min_iou=args.iou,
    )
    if args.output:
        said = {"better": judged.better, "sentence": judged.sentence}
        write_json(args.output, {**as_json(judged.evaluation), "verdict": said})
    print(format_evaluation(judged.evaluation))
    print(f"\nVerdict: {judged.sentence}.")
