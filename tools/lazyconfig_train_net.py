#!/usr/bin/env python3
"""Pretrains and fine-tunes by a LazyConfig, whose keys are overridden by path.key=value.

A LazyConfig is a program that is run: use files that you trust.
"""

import sys

from detectron2_agssp.utils.command_line import (
    CommandParser,
    add_launch_arguments,
    launch,
    readable_errors,
)

EXAMPLE = "lazyconfig_train_net.py --config-file agssp://lazy/agbp_lite0.py train.max_iter=100"


def train(args) -> None:
    """In one process of several."""
    from detectron2_agssp.engine.lazy_training import train_or_evaluate

    train_or_evaluate(args)


def main() -> None:
    parser = CommandParser("lazyconfig_train_net.py", __doc__, EXAMPLE)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path, or agssp://...")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    add_launch_arguments(parser)
    parser.add_argument(
        "opts", nargs="*", default=[], metavar="KEY=VALUE", help="override the config"
    )
    args = parser.parse(sys.argv[1:])
    with readable_errors("The same command with --resume goes on from the last checkpoint."):
        launch(train, args)


if __name__ == "__main__":
    main()
