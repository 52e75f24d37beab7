#!/usr/bin/env python3
"""Groups the images of a map folder by what their anomalies look like, without labels.

    tools/find_box_types.py IMAGE_DIR MAP_DIR AGSSP.BOXES.TYPES 10

AGDP with the same AGSSP.BOXES.TYPES (and as many MODEL.ROI_HEADS.NUM_CLASSES) takes each group as
a class of its pseudo-boxes.
"""

import argparse
from collections import Counter

from detectron2_agssp.maps.box_types import find_types, types_path
from detectron2_agssp.utils.command_line import add_config_arguments, config_from, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image_dir", help="the images of the maps")
    parser.add_argument("map_dir")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    keep_freed_memory()
    with readable_errors():
        cfg = config_from(args)
        types = find_types(cfg, args.image_dir, args.map_dir)
    sizes = sorted(Counter(types.values()).items())
    print("Images a type:", ", ".join(f"{kind}: {count}" for kind, count in sizes))
    print("Written to", types_path(args.map_dir, cfg.AGSSP.BOXES.TYPES))


if __name__ == "__main__":
    main()
