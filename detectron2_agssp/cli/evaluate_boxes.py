"""Judges the pseudo-boxes of a map folder against labels that pretraining did not see.

    agssp evaluate boxes MAP_DIR COCO_JSON [--thresholds 0.2,0.3] [--iou 0.5]
    agssp evaluate boxes MAP_DIR COCO_JSON AGSSP.BOXES.MARGIN 0.2 --output table.json

Of each threshold, and of the one by which AGDP cuts its boxes (marked *): precision and recall at
--iou, whether the labels were hit at all (a box's centre lies in them), the boxes an image, and
the share of images without; then recall by class of the label, and precision by source of the
image. Images of the json without labels are free of defects: every box there is wrong.
"""

import argparse

from detectron2_agssp.evaluation.box_statistics import THRESHOLD_GRID
from detectron2_agssp.evaluation.box_tables import as_json, format_evaluation
from detectron2_agssp.evaluation.pseudo_boxes import evaluate_pseudo_boxes
from detectron2_agssp.io.files import write_json
from detectron2_agssp.utils.command_line import add_config_arguments, config_from, readable_errors


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map_dir")
    parser.add_argument("labels", metavar="coco_json")
    parser.add_argument(
        "--thresholds",
        type=_numbers,
        default=THRESHOLD_GRID,
        metavar="T,T,...",
        help="in [0, 1), separated by commas (default: 0.1 to 0.9)",
    )
    parser.add_argument("--iou", type=float, default=0.5, help="of a box that matches a label")
    parser.add_argument("--output", default="", metavar="FILE", help="also write all as json")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    with readable_errors():
        evaluation = evaluate_pseudo_boxes(
            config_from(args),
            args.map_dir,
            args.labels,
            thresholds=args.thresholds,
            min_iou=args.iou,
        )
        if args.output:
            write_json(args.output, as_json(evaluation))
    print(format_evaluation(evaluation))


if __name__ == "__main__":
    main()
