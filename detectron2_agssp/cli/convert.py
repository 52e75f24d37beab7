"""Converts an OpenMMLab backbone, Faster R-CNN, YOLO or DINO into a file for MODEL.WEIGHTS."""

import argparse

HELP = "an OpenMMLab backbone or detector under Detectron2's names"
EXAMPLE = "agssp convert swin_tiny.pth swin_tiny_d2.pth"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="OPENMMLAB.pth", help="checkpoint of mmdet, mmpretrain, mmcls or mmyolo"
    )
    parser.add_argument("output", metavar="OUT.pth", help="file to write")
    parser.add_argument(
        "--pixel-mean",
        type=float,
        nargs=3,
        metavar="M",
        help="0-255, in the order of --format (default: OpenMMLab's)",
    )
    parser.add_argument(
        "--pixel-std", type=float, nargs=3, metavar="S", help="as --pixel-mean, of the deviations"
    )
    parser.add_argument(
        "--format", choices=["RGB", "BGR"], default="RGB", help="channel order (default: RGB)"
    )


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.checkpoint.openmmlab_files import convert_file, left_out_by_kind
    from detectron2_agssp.utils.naming import some_of

    conversion = convert_file(
        args.input,
        args.output,
        pixel_mean=args.pixel_mean,
        pixel_std=args.pixel_std,
        channel_order=args.format,
    )
    print(
        f"{args.output}: {len(conversion.weights)} tensors ({conversion.backbone})\n"
        f"Left out: {left_out_by_kind(conversion) or 'nothing'}\n"
        f"Missing: {some_of(conversion.missing, 12)}"
    )
