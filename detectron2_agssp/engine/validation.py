"""A validation set drawn from the training images, where a run needs one and none is named."""

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from detectron2_agssp.data.configured import register_configured
from detectron2_agssp.data.formats.splits import draw_balanced
from detectron2_agssp.io.coco import forget_dataset, read_coco, subset, write_coco

FOLDER = "labels"


def with_validation(cfg: CfgNode) -> CfgNode:
    """The config with ``AGSSP.DATA.VALIDATION`` of the images of its data set, drawn by class, as
    ``DATASETS.TEST`` and the others as ``DATASETS.TRAIN``; as it is, unless it has a BEST_METRIC, a
    data set with COCO labels and no validation set.

    Both parts are written to ``OUTPUT_DIR/labels`` and named in ``AGSSP.DATA.COCO``, so that the
    run's config.yaml finds them. The same labels give the same draw.

    Raises:
        ValueError: several data sets, a share outside [0, 1), or too few images.
    """
    share, names = cfg.AGSSP.DATA.VALIDATION, cfg.DATASETS.TRAIN
    if not 0 <= share < 1:
        raise ValueError(f"AGSSP.DATA.VALIDATION is a share of the images in [0, 1), got {share}.")
    if cfg.DATASETS.TEST or not names or not share or not cfg.AGSSP.SOLVER.BEST_METRIC:
        return cfg
    metadata = MetadataCatalog.get(names[0])
    if metadata.get("evaluator_type", None) != "coco":
        return cfg
    if len(names) > 1:
        raise ValueError(
            f"AGSSP.SOLVER.BEST_METRIC needs a validation set, and one is drawn from one data set "
            f"only, not from {', '.join(names)}. Name it: DATASETS.TEST \"('my_val',)\"."
        )
    labels = read_coco(metadata.json_file)
    classes: dict[int, set] = {image["id"]: set() for image in labels["images"]}
    for annotation in labels["annotations"]:
        classes[annotation["image_id"]].add(annotation["category_id"])
    drawn = draw_balanced(classes, share, "validation")
    if not drawn or len(drawn) == len(classes):
        raise ValueError(
            f"{names[0]} has {len(classes)} images: too few to draw a validation set of "
            f"{share:.0%} of each class (AGSSP.DATA.VALIDATION). Name one, DATASETS.TEST, or do "
            "without: AGSSP.SOLVER.BEST_METRIC \"''\"."
        )
    folder = Path(os.path.abspath(cfg.OUTPUT_DIR)) / FOLDER
    entries = []
    for part, ids in (("train", classes.keys() - drawn), ("validation", drawn)):
        path = folder / f"{part}.json"
        if comm.is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            write_coco(path, subset(labels, set(ids)))
        name = f"{names[0]}_drawn_{part}"
        # Of an earlier run of the same process.
        forget_dataset(name)
        entries.append([name, str(path), os.path.abspath(metadata.image_root)])
    comm.synchronize()
    drawn_cfg = cfg.clone()
    drawn_cfg.defrost()
    drawn_cfg.AGSSP.DATA.COCO = (*cfg.AGSSP.DATA.COCO, *entries)
    drawn_cfg.DATASETS.TRAIN, drawn_cfg.DATASETS.TEST = ((entry[0],) for entry in entries)
    register_configured(drawn_cfg)
    drawn_cfg.freeze()
    return drawn_cfg
