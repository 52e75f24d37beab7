"""``AGSSP.MAPPER``: which mapper Detectron2's loaders use where no mapper is passed to them."""

import functools
from collections.abc import Callable

import detectron2.data.build
from detectron2.data import DatasetMapper
from detectron2.utils.registry import Registry

from detectron2_agssp.data.source_sampler import check_source_power
from detectron2_agssp.utils.registry import get_registered

MAPPER_REGISTRY = Registry("AGSSP_MAPPER")
MAPPER_REGISTRY.__doc__ = """
Mappers, by the name in ``AGSSP.MAPPER``. A registered callable takes ``(cfg, is_train)`` and
returns a callable from a data set's dict to a model's input.
"""


def build_mapper(cfg, is_train: bool = True) -> Callable[[dict], dict]:
    """The mapper that ``cfg.AGSSP.MAPPER`` names; Detectron2's ``DatasetMapper`` where it is "".

    ``cfg`` may be a config without an AGSSP node. A mapper of training only is replaced in testing
    by ``DetectionMapper``, which reads images as it does.

    Raises:
        ValueError: the name is not registered (the message lists what is); or, in training, sources
            are to be weighed by another sampler.
    """
    if is_train:
        check_source_power(cfg)
    name = cfg.AGSSP.MAPPER if "AGSSP" in cfg else ""
    if not name:
        return DatasetMapper(cfg, is_train)
    mapper = get_registered(MAPPER_REGISTRY, name, key="AGSSP.MAPPER")
    if not is_train and not getattr(mapper, "serves_testing", False):
        mapper = MAPPER_REGISTRY.get("DetectionMapper")
    return mapper(cfg, is_train)


def install_mapper_choice() -> None:
    """Makes Detectron2's ``build_detection_{train,test}_loader`` ask :func:`build_mapper`.

    Both look the name ``DatasetMapper`` up in their module where the caller gave no mapper; that
    one name is replaced. The class itself, and whoever imports it, is untouched.
    """

    @functools.wraps(DatasetMapper, updated=())
    def default_mapper(cfg, is_train: bool = True):
        return build_mapper(cfg, is_train)

    if detectron2.data.build.DatasetMapper is DatasetMapper:
        detectron2.data.build.DatasetMapper = default_mapper
