"""What importing the package does."""

import logging

# Each room's classes register themselves when it is imported.
from detectron2_agssp import boxes, data, evaluation, maps, modeling, ops, scoring  # noqa: F401
from detectron2_agssp.checkpoint.stock import install_coverage_check
from detectron2_agssp.config import extend_default_config
from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.data.configured import install_configured_datasets
from detectron2_agssp.data.labels import register_label_files
from detectron2_agssp.data.mapper_choice import install_mapper_choice
from detectron2_agssp.data.source_sampler import install_source_sampler
from detectron2_agssp.data.unlabeled import register_map_folders
from detectron2_agssp.engine.epochs import install_epochs
from detectron2_agssp.engine.optimizer import install_optimizers
from detectron2_agssp.io.config_files import install_config_handler
from detectron2_agssp.io.tar_shards import install_tar_handler
from detectron2_agssp.io.zoo_files import install_zoo_handler
from detectron2_agssp.modeling.detectors.score_weights import install_score_weights


def install() -> None:
    """Extends Detectron2's defaults and loaders; registers configs, data sets; idempotent."""
    # The stock scripts set up the loggers of Detectron2 and fvcore alone; what this package has to
    # say goes there, unless its own logger is set up too.
    logging.getLogger("detectron2_agssp").parent = logging.getLogger("detectron2")
    extend_default_config()
    install_config_handler()
    install_zoo_handler()
    install_tar_handler()
    install_configured_datasets()
    install_mapper_choice()
    install_source_sampler()
    install_score_weights()
    install_coverage_check()
    install_epochs()
    install_optimizers()
    register_builtin_datasets()
    register_map_folders()
    register_label_files()
