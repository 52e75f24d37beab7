"""Judges a backbone's energies against masks, before and after AGBP: pixel AUROC and AP by class.

    agssp evaluate energies IMAGE_DIR MASKS --config-file configs/agbp/R50.yaml \
        --weights imagenet output/agbp/R50/model_final.pth

The config is AGBP's; its distilled features are judged. WEIGHTS are checkpoints of AGBP, exported
backbones, or "imagenet" for what the config starts from. MASKS is a folder of masks with the
images' relative paths (scratches/1.jpg -> scratches/1.png), where a class is the first folder of
an image's path; or a COCO json. Images without any are left out.
"""

import argparse

from detectron2_agssp.evaluation.energies import (
    energy_metrics,
    format_energies,
    load_distiller,
)
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
    parser.add_argument("image_dir")
    parser.add_argument("masks")
    parser.add_argument("--weights", nargs="+", required=True, help="to compare")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--threshold", type=int, default=127, help="mask values above are defect")
    parser.add_argument("--output", default="", metavar="FILE", help="also write the table as json")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    args.weights, pairs = split_config_pairs(args.weights)
    args.opts += pairs
    options = {"size": args.size, "threshold": args.threshold}
    with readable_errors():
        cfg = config_from(args)
        tables = {}
        for weights in args.weights:
            model = load_distiller(cfg, weights)
            tables[weights] = energy_metrics(cfg, model, args.image_dir, args.masks, **options)
        if args.output:
            write_json(args.output, tables)
    print(format_energies(tables))


if __name__ == "__main__":
    main()
