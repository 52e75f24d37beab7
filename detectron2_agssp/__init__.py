"""AGSSP for Detectron2: importing this package is the installation.

The import extends ``get_cfg()``'s defaults with the ``AGSSP`` node, registers the
meta-architecture, backbones, anomaly scorers, mappers and data sets, and makes Detectron2's
default mapper and checkpointer honour AGSSP's keys and files. Importing it again changes nothing,
and a config without AGSSP keys behaves exactly as without the import.
"""

from detectron2_agssp import checkpoint, data, maps, modeling, ops, scoring
from detectron2_agssp.checkpoint.loading import install_coverage_check
from detectron2_agssp.config import add_agssp_config, extend_default_config
from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.data.mapper_choice import install_mapper_choice
from detectron2_agssp.data.unlabeled import register_map_folders
from detectron2_agssp.version import __version__

extend_default_config()
install_mapper_choice()
install_coverage_check()
register_builtin_datasets()
register_map_folders()

__all__ = [
    "__version__",
    "add_agssp_config",
    "checkpoint",
    "data",
    "maps",
    "modeling",
    "ops",
    "scoring",
]
