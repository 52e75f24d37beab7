"""Judges a backbone's energies against masks, before and after AGBP: pixel AUROC and AP by class.

The config is AGBP's; its distilled features are judged. WEIGHTS are checkpoints of AGBP, exported
backbones, or "imagenet" for what the config starts from. MASKS is a folder of masks with the
images' relative paths (scratches/1.jpg -> scratches/1.png), where a class is the first folder of
an image's path; or a COCO json. Images without any are left out.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments, split_config_pairs

HELP = "a backbone's energies against masks, before and after AGBP"
EXAMPLE = (
    "agssp evaluate energies images masks --config-file agssp://agbp/R50.yaml "
    "--weights imagenet output/agbp/R50/model_final.pth"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGES", help="folder of images")
    parser.add_argument("masks", metavar="MASKS", help="folder of masks, or COCO json")
    parser.add_argument(
        "--weights",
        nargs="+",
        required=True,
        metavar="WEIGHTS",
        help='checkpoints to compare, or "imagenet"',
    )
    parser.add_argument("--size", type=int, default=256, help="pixels a side (default: 256)")
    parser.add_argument(
        "--threshold", type=int, default=127, help="mask values above are defect (default: 127)"
    )
    parser.add_argument("--output", default="", metavar="FILE", help="also write the table as json")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.evaluation.energies import (
        energy_metrics,
        format_energies,
        load_distiller,
    )
    from detectron2_agssp.io.config_reading import config_from, use_available_device
    from detectron2_agssp.io.files import write_json

    args.weights, pairs = split_config_pairs(args.weights)
    args.opts = [*args.opts, *pairs]
    cfg = config_from(args)
    use_available_device(cfg)
    options = {"size": args.size, "threshold": args.threshold}
    tables = {}
    for weights in args.weights:
        model = load_distiller(cfg, weights)
        tables[weights] = energy_metrics(cfg, model, args.images, args.masks, **options)
    if args.output:
        write_json(args.output, tables)
    print(format_energies(tables))
