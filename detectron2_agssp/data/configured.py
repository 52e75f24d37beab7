"""``AGSSP.DATA.COCO``: data sets that a config brings along, registered where it is read.

Every script, the stock train_net.py and ``DefaultPredictor``'s callers among them, merges its yaml
into a ``CfgNode`` before it looks a data set up, in each of its processes. So a yaml needs neither
a line of Python nor an environment variable, and a run's config.yaml brings its data, and the names
of its classes, along.
"""

import functools
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.io.coco import class_names, register_coco
from detectron2_agssp.io.files import user_path


def register_configured(cfg: CfgNode) -> None:
    """Registers what ``cfg.AGSSP.DATA.COCO`` lists. No box is read before a data set is used, and
    files that are not there are no error before that.

    Raises:
        ValueError: an entry is not of three texts, or its name is that of another data set.
    """
    if "AGSSP" not in cfg or "DATA" not in cfg.AGSSP:
        return
    for entry in cfg.AGSSP.DATA.COCO:
        name, *paths = _checked(entry)
        json_file, image_root = (str(user_path(path)) for path in paths)
        classes = class_names(json_file)
        if name in DatasetCatalog:
            metadata = MetadataCatalog.get(name)
            there = metadata.get("json_file"), metadata.get("image_root")
            if there != (json_file, image_root):
                raise ValueError(
                    f"AGSSP.DATA.COCO: {name} is {json_file} with the images of {image_root}, but "
                    f"a data set of that name is registered already ({there[0]}, {there[1]}). "
                    "Choose another name."
                )
            if metadata.get("thing_classes") == classes:
                continue
        register_coco(name, json_file, image_root)
        if classes is not None:
            MetadataCatalog.get(name).thing_classes = classes


def _checked(entry: Any) -> list[str]:
    is_list = isinstance(entry, list | tuple) and len(entry) == 3
    if not is_list or not all(isinstance(part, str) and part for part in entry):
        raise ValueError(
            f"AGSSP.DATA.COCO has the entry {entry!r}. Each is [name, COCO json, image folder]."
        )
    return list(entry)


def install_configured_datasets() -> None:
    """Makes Detectron2's configs register their data sets whenever a file or KEY VALUE pairs are
    merged into them; does nothing the second time."""
    for method in ("merge_from_other_cfg", "merge_from_list"):
        original = getattr(CfgNode, method)
        if not getattr(original, "registers_datasets", False):
            setattr(CfgNode, method, _then_registering(original))


def _then_registering(original):
    @functools.wraps(original)
    def merge(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        register_configured(self)
        return result

    merge.registers_datasets = True
    return merge
