"""Pretrains a detector on a folder of images: the whole method, without labels.

Maps, AGBP, further rounds of both, and AGDP, in order; what is there already is kept, so that the
same command goes on after an interruption.
"""

import argparse

from detectron2_agssp.utils.command_line import add_launch_arguments, launch

HELP = "pretrain a detector on unlabelled images: maps, AGBP, further rounds, AGDP"
EXAMPLE = "agssp pretrain images out --detector faster_rcnn_R50_fpn AGDP.SOLVER.BASE_LR 0.005"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="folder of images, searched recursively, or tar archives: 'shard-{000..099}.tar'",
    )
    parser.add_argument("output", metavar="OUT", help="folder for everything; resumed if it exists")
    parser.add_argument(
        "--detector",
        default="faster_rcnn_lite0_fpn",
        metavar="NAME",
        help="a config of configs/agdp (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        help="of AGBP; 1: AGSSP as published, for small defects in mostly normal images "
        "(default: %(default)s)",
    )
    add_launch_arguments(parser)
    parser.add_argument(
        "opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="settings of all stages, or of one: MAPS., AGBP., ENERGY. or AGDP. before KEY",
    )


def run(args: argparse.Namespace) -> None:
    launch(pretrain_in_process, args)


def pretrain_in_process(args: argparse.Namespace) -> None:
    """In one process of several."""
    from detectron2_agssp.engine.pretrain import pretrain
    from detectron2_agssp.utils.cpu_memory import keep_freed_memory

    keep_freed_memory()
    pretrain(
        args.images,
        args.output,
        detector=args.detector,
        rounds=args.rounds,
        options=args.opts,
    )
