"""Pretrains and fine-tunes: Detectron2's train_net.py with AGSSP's trainer.

Beyond the stock script (which works too, with `import detectron2_agssp` in front): AdamW, an
evaluator for maps, model_best.pth, and backbone_final.pth after AGBP.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments, add_launch_arguments, launch

HELP = "one training run: AGBP, AGDP or fine-tuning, by its config"
EXAMPLE = "agssp train --config-file agssp://agbp/lite0.yaml DATASETS.TRAIN \"('agssp_mine',)\""
GO_ON = "The same command with --resume goes on from the last checkpoint."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in OUTPUT_DIR, where there is one",
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST"
    )
    add_launch_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if not args.config_file:
        raise ValueError("--config-file is missing, for one agssp://agbp/lite0.yaml.")
    launch(train, args)


def train(args: argparse.Namespace) -> None:
    """In one process of several."""
    from detectron2_agssp.engine.training import train_or_evaluate
    from detectron2_agssp.io.config_reading import config_from

    train_or_evaluate(config_from(args), args)
