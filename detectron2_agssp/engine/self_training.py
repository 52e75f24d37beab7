"""A further round of AGDP: the boxes that its detector finds on the images it learned from.

Boxes cut from maps miss and misplace many defects, each in a way of its own; a detector keeps what
thousands of them have in common, and its best detections lie on defects more often than what it was
taught (self-training, as in CutLER, Wang et al., CVPR 2023; benchmarks/notebook.md has figures).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from tqdm import tqdm

from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data.unlabeled import ANOMALY_CLASSES
from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.io.coco import coco_annotation, coco_categories, coco_image


def detected_boxes(
    cfg: CfgNode,
    weights: str | Path,
    dataset: str,
    boxes_per_image: float,
    *,
    progress: bool = True,
) -> dict:
    """COCO dict of what a detector of AGDP finds on a map folder's images.

    Called in every process of a run, each looks at its share, and all get the whole.

    Args:
        cfg: of the AGDP run.
        weights: its.
        dataset: the registered map folder, without ``_boxes``.
        boxes_per_image: mean number of boxes, of the highest scores over all images; fewer where
            the detector finds fewer. That the maps' boxes are as many leaves no threshold to
            choose.
        progress: show a bar.

    Returns:
        every image, ``file_name`` as the map folder's manifest has it, also those without boxes;
        boxes with their ``score``, of the one category ``anomaly``, id 1.

    Raises:
        ValueError: the detector finds nothing.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part in comm.all_gather(dict(_detections(cfg, weights, dataset, progress))):
        found |= part
    dicts = DatasetCatalog.get(dataset)
    scores = np.concatenate([found[entry["image_id"]][1] for entry in dicts])
    count = min(len(scores), round(boxes_per_image * len(dicts)))
    if not count:
        raise ValueError(
            f"The detector of {weights} finds nothing on its own {len(dicts)} images, so that a "
            "further round has nothing to learn. Train it longer (SOLVER.MAX_ITER), or leave "
            "AGSSP.BOXES.ROUNDS at 1."
        )
    threshold = np.partition(scores, -count)[-count]
    images, annotations = [], []
    for image_id, entry in enumerate(dicts, start=1):
        size = {key: entry[key] for key in ("height", "width")}
        images.append(coco_image(image_id, entry["image_id"], **size))
        for (x0, y0, x1, y1), score in zip(*found[entry["image_id"]], strict=True):
            if score >= threshold:
                bbox = [float(side) for side in (x0, y0, x1 - x0, y1 - y0)]
                place = len(annotations) + 1, image_id, 1, bbox
                annotations.append(coco_annotation(*place, score=round(float(score), 5)))
    return {
        "info": {"description": "Detections of AGDP, made by detectron2_agssp"},
        "images": images,
        "annotations": annotations,
        "categories": coco_categories(ANOMALY_CLASSES),
    }


def _detections(
    cfg: CfgNode, weights: str | Path, dataset: str, progress: bool
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Image id -> boxes (K, 4), XYXY in pixels of the image, and scores (K,); of this process's
    share."""
    cfg = cfg.clone()
    cfg.defrost()
    # Reads images as AGDP does; its own mapper needs maps.
    cfg.AGSSP.MAPPER = "DetectionMapper"
    model = load_trained(cfg, weights)
    loader = AGSSPTrainer.build_test_loader(cfg, dataset)
    with inference_context(model), torch.no_grad():
        for inputs in tqdm(loader, desc="detect", unit="img", disable=not progress):
            for image, output in zip(inputs, model(inputs), strict=True):
                instances = output["instances"].to("cpu")
                boxes, scores = instances.pred_boxes.tensor.numpy(), instances.scores.numpy()
                yield image["image_id"], (boxes, scores)
