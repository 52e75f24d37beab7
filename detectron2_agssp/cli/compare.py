"""Judges map folders without labels, to choose a scorer and a threshold before training.

Of each folder: the threshold, how many images have boxes, the boxes' number and size, what they
cover, and whether they stay where the threshold moves by --delta. Of each two folders of the same
images: the correlation of their maps and of their scores, and the overlap of what they mark.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments, split_config_pairs

HELP = "map folders judged, and compared, without labels"
EXAMPLE = "agssp compare maps_a maps_b --max-images 1000 AGSSP.BOXES.MARGIN 0.2"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", nargs="+", metavar="MAPS", help="map folders")
    parser.add_argument(
        "--delta",
        type=float,
        default=0.05,
        help="change of the threshold that boxes should bear (default: 0.05)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=0,
        metavar="N",
        help="judge a sample of as many; 0 (default): all",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--output", default="", metavar="FILE", help="also write all as json")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    import itertools
    from dataclasses import asdict

    from detectron2_agssp.evaluation import verdict
    from detectron2_agssp.evaluation.label_free import format_figures, label_free_figures
    from detectron2_agssp.evaluation.map_agreement import agreement, format_agreements
    from detectron2_agssp.io.config_reading import config_from
    from detectron2_agssp.io.files import write_json

    folders, args.opts = split_config_pairs([*args.maps, *args.opts])
    if not folders:
        raise ValueError("No map folder is named: agssp compare MAPS [MAPS ...].")
    sample = {"max_images": args.max_images, "seed": args.seed}
    cfg = config_from(args)
    figures = [label_free_figures(cfg, folder, delta=args.delta, **sample) for folder in folders]
    pairs = [agreement(cfg, *two, **sample) for two in itertools.combinations(folders, 2)]
    if args.output:
        content: dict[str, list] = {"folders": figures, "agreement": pairs}
        write_json(args.output, {key: list(map(asdict, rows)) for key, rows in content.items()})
    print(format_figures(figures))
    if pairs:
        print(f"\n{format_agreements(pairs)}")
    for folder, judged in zip(folders, figures, strict=True):
        for doubt in verdict(judged):
            print(f"\n{folder}: {doubt}")
