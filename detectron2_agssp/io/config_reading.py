"""A config from a yaml file and KEY VALUE pairs: read without running code, with errors that name
the file, the key, and what is nearest to it."""

import argparse
import logging
import os
import re
from collections.abc import Iterator, Sequence

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from detectron2_agssp.io.config_files import PREFIX, config_names, config_path
from detectron2_agssp.utils.suggestions import did_you_mean

logger = logging.getLogger(__name__)


def config_from(args: argparse.Namespace) -> CfgNode:
    """The config of ``utils.command_line.add_config_arguments``, frozen."""
    cfg = read_config(args.config_file, args.opts, allow_unsafe=args.allow_unsafe_config)
    cfg.freeze()
    return cfg


def read_config(
    config_file: str | os.PathLike = "", opts: Sequence[str] = (), *, allow_unsafe: bool = False
) -> CfgNode:
    """Detectron2's defaults, overridden by a yaml file and by KEY VALUE pairs.

    Args:
        config_file: a path, a URL that Detectron2 opens, or ``agssp://...``; "" for none.
        opts: keys and values in turn, as on a command line.
        allow_unsafe: let the file, and its ``_BASE_``, build Python objects, which can run any
            code; it is Detectron2's own default.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key that does not exist, a value of another type, a key without a value, or
            yaml that cannot be read, or not safely.
    """
    cfg, config_file = get_cfg(), os.fspath(config_file)
    if config_file:
        _check_existence(config_file)
        try:
            cfg.merge_from_file(config_file, allow_unsafe=allow_unsafe)
        except yaml.constructor.ConstructorError as error:
            raise ValueError(_unsafe_message(config_file, error)) from error
        except (AssertionError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError(f"{config_file}: {_explained(error, cfg)}") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{config_file}: its _BASE_ is missing ({error}).") from error
        except RecursionError as error:
            raise ValueError(
                f"{config_file}: it is nested too deep, or its _BASE_ leads back to it."
            ) from error
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{config_file}: {error}") from error
    if len(opts) % 2:
        raise ValueError(f"{list(opts)}: the last key has no value; they are pairs of KEY VALUE.")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(f"{key} {value}: {_explained(error, cfg)}") from error
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
    return cfg


def use_available_device(cfg: CfgNode) -> None:
    """Sets ``cfg.MODEL.DEVICE`` to "cpu", with a warning, where it asks for CUDA and there is
    none."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("No GPU is visible: MODEL.DEVICE %s becomes cpu.", cfg.MODEL.DEVICE)
        frozen = cfg.is_frozen()
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        if frozen:
            cfg.freeze()


def _check_existence(config_file: str) -> None:
    if config_file.startswith(PREFIX):
        config_path(config_file)
    elif "://" not in config_file and not PathManager.isfile(config_file):
        folder, name = os.path.split(config_file)
        beside = [entry.name for entry in os.scandir(folder or ".")] if _is_folder(folder) else []
        hint = did_you_mean(name, (entry for entry in beside if entry.endswith((".yaml", ".yml"))))
        shipped = config_file.replace(os.sep, "/").split("configs/")[-1]
        if not hint and shipped in config_names():
            hint = f" The shipped one is {PREFIX}{shipped}"
        raise FileNotFoundError(f"There is no config file {config_file}.{hint}")


def _is_folder(path: str) -> bool:
    return os.path.isdir(path or ".")


def _unsafe_message(config_file: str, error: yaml.constructor.ConstructorError) -> str:
    tag = re.search(r"'tag:yaml\.org,2002:(.+?)'", str(error))
    # The file of the tag may be the config's _BASE_.
    file = getattr(error.problem_mark, "name", config_file)
    named = f"the tag !!{tag[1]}" if tag else str(error.problem)
    return (
        f"{file} is not read: {named} builds Python objects, which can run any code. If you trust "
        "the file, and every file that it is based on, add --allow-unsafe-config."
    )


def _explained(error: Exception, cfg: CfgNode) -> str:
    """The message of an error of yacs; of a key that does not exist, with the nearest one."""
    message = str(error.args[0] if error.args else error)
    key = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", message)
    if key is None:
        return message
    return f"there is no key {key[1]}.{did_you_mean(key[1], _keys(cfg), cutoff=0.7)}"


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
