#!/usr/bin/env python3
"""Spreads the one class of an AGDP checkpoint over the classes of the detector to fine-tune.

    tools/spread_classes.py output/agdp/faster_rcnn_lite0_fpn/model_final.pth start.pth \
        --num-classes 6

Without it, fine-tuning starts with random predictors behind the pretrained box head. The file
serves as MODEL.WEIGHTS of the same detector with that many classes.
"""

import argparse

from detectron2_agssp.checkpoint import spread_checkpoint
from detectron2_agssp.utils.command_line import readable_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="of AGDP")
    parser.add_argument("output", help="file to write, .pth")
    parser.add_argument("--num-classes", type=int, required=True)
    parser.add_argument(
        "--class-agnostic-boxes",
        action="store_true",
        help="the detector has MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    )
    args = parser.parse_args()
    with readable_errors():
        path = spread_checkpoint(
            args.checkpoint,
            args.output,
            args.num_classes,
            class_agnostic_boxes=args.class_agnostic_boxes,
        )
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
