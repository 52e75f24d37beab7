"""Judges map folders without labels, to choose a scorer and a threshold before training.

    agssp compare MAP_DIR [MAP_DIR ...] [--max-images 1000] [--output table.json]
    agssp compare MAP_DIR MAP_DIR AGSSP.BOXES.MARGIN 0.2

Of each folder: the threshold, how many images have boxes, the boxes' number and size, what they
cover, and whether they stay where the threshold moves by --delta. Of each two folders of the same
images: the correlation of their maps and of their scores, and the overlap of what they mark.
"""

import argparse
import itertools
from dataclasses import asdict

from detectron2_agssp.evaluation.label_free import format_figures, label_free_figures
from detectron2_agssp.evaluation.map_agreement import agreement, format_agreements
from detectron2_agssp.io.files import write_json
from detectron2_agssp.utils.command_line import (
    add_config_arguments,
    config_from,
    readable_errors,
    split_config_pairs,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map_dirs", nargs="+", metavar="MAP_DIR")
    parser.add_argument(
        "--delta", type=float, default=0.05, help="change of the threshold that boxes should bear"
    )
    parser.add_argument(
        "--max-images", type=int, default=0, help="judge a sample of as many; 0 (default): all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--output", default="", metavar="FILE", help="also write all as json")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    map_dirs, args.opts = split_config_pairs([*args.map_dirs, *args.opts])
    if not map_dirs:
        parser.error("name at least one MAP_DIR")
    sample = {"max_images": args.max_images, "seed": args.seed}
    with readable_errors():
        cfg = config_from(args)
        folders = [
            label_free_figures(cfg, map_dir, delta=args.delta, **sample) for map_dir in map_dirs
        ]
        pairs = [agreement(cfg, *two, **sample) for two in itertools.combinations(map_dirs, 2)]
        if args.output:
            content = {"folders": folders, "agreement": pairs}
            write_json(args.output, {key: list(map(asdict, of)) for key, of in content.items()})
    print(format_figures(folders))
    if pairs:
        print(f"\n{format_agreements(pairs)}")


if __name__ == "__main__":
    main()
