"""What the tools share: a config from a yaml file and KEY VALUE pairs, and readable errors."""

import argparse
import contextlib
import sys
from collections.abc import Iterator

import yaml
from detectron2.config import CfgNode, get_cfg


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config-file`` and the KEY VALUE pairs of train_net.py; parse with
    ``parse_intermixed_args``, so that they may stand in any order."""
    parser.add_argument("--config-file", default="", metavar="FILE", help="yaml with settings")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs that override the config")


def config_from(args: argparse.Namespace) -> CfgNode:
    """Detectron2's defaults, the file and the pairs of :func:`add_config_arguments`, frozen."""
    cfg = get_cfg()
    try:
        if args.config_file:
            cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
    except (AssertionError, KeyError, yaml.YAMLError) as error:
        # The first two are how yacs says that a key does not exist, or that a value is missing.
        raise ValueError(f"{args.config_file or 'The config'} or {args.opts}: {error}") from error
    cfg.freeze()
    return cfg


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Prints the message of an expected error, without a traceback, and exits with 2."""
    try:
        yield
    except (ValueError, OSError, ImportError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
