"""What the tools share: a config from a yaml file and KEY VALUE pairs, and readable errors."""

import argparse
import contextlib
import itertools
import re
import sys
from collections.abc import Iterator

import yaml
from detectron2.config import CfgNode, get_cfg


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config-file`` and the KEY VALUE pairs of train_net.py; parse with
    ``parse_intermixed_args``, so that they may stand in any order."""
    parser.add_argument("--config-file", default="", metavar="FILE", help="yaml with settings")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs that override the config")


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """``--num-gpus`` and the others of ``detectron2.engine.launch``, as in train_net.py."""
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs of this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0")


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


def split_config_pairs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Takes the KEY VALUE pairs out of positional arguments of which there are any number, where
    argparse cannot tell them from pairs; a KEY is in capitals and has a dot.

    Returns:
        the other arguments, and the pairs one after the other.
    """
    others, pairs = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+", argument):
            pairs += [argument, *itertools.islice(remaining, 1)]
        else:
            others.append(argument)
    return others, pairs
