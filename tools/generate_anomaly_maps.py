#!/usr/bin/env python3
"""Makes anomaly maps of a folder of images, without labels.

    tools/generate_anomaly_maps.py IMAGE_DIR MAP_DIR
    tools/generate_anomaly_maps.py IMAGE_DIR MAP_DIR \
        --config-file configs/maps/mahalanobis.yaml AGSSP.SCORER.IMAGE_SIZE 512

A MAP_DIR of the form $DETECTRON2_DATASETS/agssp/NAME is at once a data set. Run the same command
again to go on after an interruption, or after adding images.
"""

import argparse

from detectron2.utils.logger import setup_logger

from detectron2_agssp.maps.generate import generate_anomaly_maps, registration_hint
from detectron2_agssp.utils.command_line import add_config_arguments, config_from, readable_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image_dir", help="folder of images, searched recursively")
    parser.add_argument("map_dir", help="folder to write")
    parser.add_argument(
        "--fitted-by", metavar="MAP_DIR", help="use that folder's fitted scorer and calibration"
    )
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    setup_logger(name="detectron2_agssp")
    with readable_errors():
        summary = generate_anomaly_maps(
            config_from(args), args.image_dir, args.map_dir, fitted_by=args.fitted_by
        )
    print(
        f"{summary.scored} maps made, {summary.kept} were there, {len(summary.skipped)} images "
        f"skipped, in {summary.map_root}"
    )
    print(registration_hint(args.image_dir, args.map_dir))


if __name__ == "__main__":
    main()
