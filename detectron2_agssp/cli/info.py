"""Prints versions, devices, compiled parts, and what is missing with the command that adds it."""

import argparse

HELP = "versions, devices, and what is missing"
EXAMPLE = "agssp info"
NEEDS_PLUGIN = False  # it has to run where torch or Detectron2 is the very thing that is missing


def configure(parser: argparse.ArgumentParser) -> None:
    """Takes no arguments."""


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.utils.collect_env import collect_environment

    rows = collect_environment()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
