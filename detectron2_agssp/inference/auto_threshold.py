"""The threshold that suits a run: stored at the end of its training, or found on its validation
set."""

import contextlib
import tempfile
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.evaluation.operating_point import (
    F1,
    THRESHOLD,
    DetectionEvaluator,
    store_threshold,
)
from detectron2_agssp.inference.run import Run
from detectron2_agssp.io.coco import class_names


def threshold_of(run: Run) -> float:
    """The score of the best F1 on the first data set of ``DATASETS.TEST``, in [0, 1]. Where it is
    not stored with the weights, the set is predicted, and it is stored.

    Raises:
        ValueError: it is not stored, and the labelled images are not there; or no box is right.
    """
    if run.threshold is not None:
        return run.threshold
    name = run.cfg.DATASETS.TEST[0] if run.cfg.DATASETS.TEST else ""
    way_out = (
        "Give a number, such as 0.5; or register labelled images that the detector was not trained "
        "on, and name them: DATASETS.TEST \"('my_val',)\"."
    )
    labels = MetadataCatalog.get(name).get("json_file", "") if name in DatasetCatalog else ""
    if not labels or not Path(labels).is_file():
        raise ValueError(
            f"No threshold is stored with {run.weights}, and "
            + (
                f"its validation set, {name}, is not here. "
                if name
                else "it has no validation set. "
            )
            + way_out
        )
    classes = class_names(labels) or []
    if len(classes) != len(run.classes):
        raise ValueError(
            f"The validation set {name} has the classes {', '.join(classes)}, but the detector of "
            f"{run.weights} knows {', '.join(run.classes)}. {way_out}"
        )
    cfg = run.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (name,)
    with tempfile.TemporaryDirectory() as folder:
        results = AGSSPTrainer.test(cfg, run.build_model(), [DetectionEvaluator(name, folder)])
    figures = results.get("bbox", {})
    if THRESHOLD not in figures:
        raise ValueError(f"On {name} no box of {run.weights} is right, at any score. {way_out}")
    # A folder that cannot be written to is no reason to stop.
    with contextlib.suppress(PermissionError):
        store_threshold(run.weights, threshold=figures[THRESHOLD], f1=figures[F1], data=name)
    return figures[THRESHOLD]
