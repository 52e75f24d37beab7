"""Exports a checkpoint's backbone for detectors, with or without this package.

The config is the training run's own: its pixel statistics are recorded in the export, which then
serves as MODEL.WEIGHTS of any Detectron2 detector with that backbone. Training does this by itself
after AGBP.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments

HELP = "the backbone of a checkpoint, for any detector"
EXAMPLE = (
    "agssp backbone output/agbp/R50/model_final.pth backbone.pth "
    "--config-file output/agbp/R50/config.yaml"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="of AGBP, or of any detector")
    parser.add_argument("output", metavar="OUT.pth", help="file to write")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.checkpoint.export import export_checkpoint
    from detectron2_agssp.io.config_reading import config_from

    if not args.config_file:
        raise ValueError("--config-file is missing: the config.yaml beside the checkpoint.")
    path = export_checkpoint(config_from(args), args.checkpoint, args.output)
    print(f"Wrote {path}")
