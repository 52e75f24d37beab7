"""AGSSP for Detectron2: importing this package is the installation.

The import extends ``get_cfg()``'s defaults with the ``AGSSP`` node, registers the
meta-architecture, backbones, anomaly scorers, mappers and data sets, and makes Detectron2's
default mapper and checkpointer honour AGSSP's keys and files. Importing it again changes nothing,
and a config without AGSSP keys behaves exactly as without the import.
"""

import sys

from detectron2_agssp.version import __version__

# collect_env has to run where torch or Detectron2 is the very thing that is missing.
if "detectron2_agssp.utils.collect_env" not in sys.orig_argv:
    from detectron2_agssp import (
        boxes,
        checkpoint,
        data,
        evaluation,
        maps,
        modeling,
        ops,
        plugin,
        scoring,
    )
    from detectron2_agssp.config import add_agssp_config
    from detectron2_agssp.engine.pretrain import Pretrained, pretrain

    plugin.install()

    __all__ = [
        "Pretrained",
        "__version__",
        "add_agssp_config",
        "boxes",
        "checkpoint",
        "data",
        "evaluation",
        "maps",
        "modeling",
        "ops",
        "pretrain",
        "scoring",
    ]
