#!/usr/bin/env python3
"""Makes anomaly maps of a folder of images, without labels.

    tools/generate_anomaly_maps.py IMAGE_DIR MAP_DIR
    tools/generate_anomaly_maps.py IMAGE_DIR MAP_DIR \
        --config-file configs/maps/mahalanobis.yaml AGSSP.SCORER.IMAGE_SIZE 512

A MAP_DIR of the form $DETECTRON2_DATASETS/agssp/NAME is at once a data set. Run the same command
again to go on after an interruption, or after adding images.
"""

import argparse

from detectron2.config import get_cfg
from detectron2.utils.logger import setup_logger

import detectron2_agssp
from detectron2_agssp.maps.generate import registration_hint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image_dir", help="folder of images, searched recursively")
    parser.add_argument("map_dir", help="folder to write")
    parser.add_argument("--config-file", default="", help="yaml with AGSSP.SCORER settings")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()
    setup_logger(name="detectron2_agssp")
    cfg = get_cfg()
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    try:
        summary = detectron2_agssp.maps.generate_anomaly_maps(cfg, args.image_dir, args.map_dir)
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    print(
        f"{summary.scored} maps made, {summary.kept} were there, {len(summary.skipped)} images "
        f"skipped, in {summary.map_root}"
    )
    print(registration_hint(args.image_dir, args.map_dir))


if __name__ == "__main__":
    main()
