"""Makes anomaly maps of a folder of images, without labels.

    agssp maps IMAGE_DIR MAP_DIR
    agssp maps IMAGE_DIR MAP_DIR \
        --config-file configs/maps/mahalanobis.yaml AGSSP.SCORER.IMAGE_SIZE 512

A MAP_DIR of the form $DETECTRON2_DATASETS/agssp/NAME is at once a data set. Run the same command
again to go on after an interruption, or after adding images.

Several GPUs: --num-gpus, as in train_net.py. Job arrays without communication: --shard 0/8 ...
--shard 7/8, then once more without it, which joins the shards (and makes what is missing).
"""

import argparse
from datetime import timedelta

from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from detectron2_agssp.maps.generate import generate_anomaly_maps, registration_hint
from detectron2_agssp.maps.store import parse_shard
from detectron2_agssp.utils.command_line import (
    add_config_arguments,
    add_launch_arguments,
    config_from,
    readable_errors,
)
from detectron2_agssp.utils.cpu_memory import keep_freed_memory


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    setup_logger(name="detectron2_agssp", distributed_rank=comm.get_rank())
    summary = generate_anomaly_maps(
        config_from(args),
        args.image_dir,
        args.map_dir,
        fitted_by=args.fitted_by,
        shard=parse_shard(args.shard),
        fit_only=args.fit_only,
    )
    if comm.is_main_process():
        print(
            f"{summary.scored} maps made, {summary.kept} were there, {summary.skipped} images "
            f"skipped, in {summary.map_root}"
        )
        print(registration_hint(args.image_dir, args.map_dir))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image_dir", help="folder of images, searched recursively")
    parser.add_argument("map_dir", help="folder to write")
    parser.add_argument(
        "--fitted-by", metavar="MAP_DIR", help="use that folder's fitted scorer and calibration"
    )
    parser.add_argument("--fit-only", action="store_true", help="fit the scorer, make no maps yet")
    parser.add_argument("--shard", default="", metavar="I/N", help="make the I-th of N parts")
    add_launch_arguments(parser)
    add_config_arguments(parser)
    arguments = parser.parse_intermixed_args()
    with readable_errors():
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
            # The others wait while the first process fits the scorer.
            timeout=timedelta(days=7),
        )
