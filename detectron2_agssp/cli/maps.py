"""Makes anomaly maps of a folder of images, without labels.

A MAPS folder of the form $DETECTRON2_DATASETS/agssp/NAME is at once a data set. Run the same
command again to go on after an interruption, or after adding images.

Several GPUs: --num-gpus, as in train_net.py. Job arrays without communication: --shard 0/8 ...
--shard 7/8, then once more without it, which joins the shards (and makes what is missing).
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments, add_launch_arguments, launch

HELP = "anomaly maps of a folder of images"
EXAMPLE = (
    "agssp maps images maps --config-file agssp://maps/memory.yaml AGSSP.SCORER.IMAGE_SIZE 512"
)
GO_ON = "The same command again goes on: the maps that were made are kept."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="folder of images, searched recursively, or tar archives: 'shard-{000..099}.tar'",
    )
    parser.add_argument("maps", metavar="MAPS", help="folder to write")
    parser.add_argument(
        "--fitted-by", metavar="MAPS", help="use that folder's fitted scorer and calibration"
    )
    parser.add_argument("--fit-only", action="store_true", help="fit the scorer, make no maps yet")
    parser.add_argument("--shard", default="", metavar="I/N", help="make the I-th of N parts")
    add_launch_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    launch(make_maps, args)


def make_maps(args: argparse.Namespace) -> None:
    """In one process of several."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from detectron2_agssp.io.config_reading import config_from
    from detectron2_agssp.io.tar_shards import check_no_archive
    from detectron2_agssp.maps.generate import generate_anomaly_maps, registration_hint
    from detectron2_agssp.maps.store import parse_shard
    from detectron2_agssp.utils.cpu_memory import keep_freed_memory

    check_no_archive(args.maps)
    keep_freed_memory()
    setup_logger(name="detectron2_agssp", distributed_rank=comm.get_rank())
    summary = generate_anomaly_maps(
        config_from(args),
        args.images,
        args.maps,
        fitted_by=args.fitted_by,
        shard=parse_shard(args.shard),
        fit_only=args.fit_only,
    )
    if comm.is_main_process():
        print(
            f"{summary.scored} maps made, {summary.kept} were there, {summary.skipped} images "
            f"skipped, in {summary.map_root}"
        )
        print(registration_hint(args.images, args.maps))
