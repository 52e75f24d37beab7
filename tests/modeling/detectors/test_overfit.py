"""YOLO learns a handful of images by heart."""

import contextlib
import io

import numpy as np
import pytest
import torch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectron2_agssp.modeling import YOLO
from tests.tiny_models import make_cfg

HEIGHT, WIDTH = 96, 128


def defects(num_images=8, seed=0) -> list[dict]:
    """Noisy surfaces, each with a dark box of class 0 and a bright one of class 1."""
    rng, inputs = np.random.default_rng(seed), []
    for _ in range(num_images):
        pixels, boxes = rng.normal(100, 8, (HEIGHT, WIDTH)), []
        for contrast in (-60, 70):
            width, height = rng.integers(16, 48, 2)
            x, y = rng.integers(WIDTH - width), rng.integers(HEIGHT - height)
            pixels[y : y + height, x : x + width] += contrast
            boxes.append([x, y, x + width, y + height])
        instances = Instances((HEIGHT, WIDTH))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.tensor([0, 1])
        image = torch.from_numpy(pixels.clip(0, 255)).float().expand(3, -1, -1)
        inputs.append({"image": image, "instances": instances, "height": HEIGHT, "width": WIDTH})
    return inputs


def average_precision(inputs, outputs) -> float:
    """COCO's AP at IoU 0.5."""
    images, annotations, results = [], [], []
    for index, (sample, output) in enumerate(zip(inputs, outputs, strict=True), start=1):
        images.append({"id": index, "height": HEIGHT, "width": WIDTH})
        instances = sample["instances"]
        for (x0, y0, x1, y1), label in zip(
            instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True
        ):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            place = {"id": len(annotations) + 1, "image_id": index, "category_id": label}
            annotations.append({**box, **place, "iscrowd": 0})
        detected = output["instances"]
        for box, score, label in zip(
            detected.pred_boxes.tensor, detected.scores, detected.pred_classes, strict=True
        ):
            corners = torch.cat([box[:2], box[2:] - box[:2]])
            result = {"bbox": corners.tolist(), "score": score.item()}
            results.append({**result, "image_id": index, "category_id": label.item()})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": label, "name": str(label)} for label in range(2)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[1]


@pytest.mark.slow
def test_nano_learns_eight_images_by_heart():
    """With the shipped preset's optimiser."""
    torch.manual_seed(0)
    schedule = {"SOLVER.MAX_ITER": 150, "SOLVER.WARMUP_ITERS": 20}
    cfg = make_cfg("finetune/yolo_cspdarknet_n.yaml", {"AGSSP.YOLO.NUM_CLASSES": 2}, schedule)
    model, inputs = YOLO(cfg).train(), defects()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    with EventStorage():
        for _ in range(cfg.SOLVER.MAX_ITER):
            optimizer.zero_grad()
            sum(model(inputs).values()).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert average_precision(inputs, outputs) > 95
