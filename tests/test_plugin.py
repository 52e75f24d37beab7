"""What importing the package does, and what it leaves alone."""

import json
import os
import subprocess
import sys

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, build

import detectron2_agssp
from detectron2_agssp import add_agssp_config, plugin
from detectron2_agssp.config import settings_of
from tests.tiny_data import write_datasets
from tests.tiny_models import ROOT

# Of what the import adds to Detectron2's own.
LARGE_PACKAGES = """
import sys
import cv2, detectron2.engine, detectron2.evaluation, detectron2.modeling
before = set(sys.modules)
import detectron2_agssp
large = {"timm", "open_clip", "scipy", "sklearn", "matplotlib", "jinja2"}
print(sorted(large & (set(sys.modules) - before)))
"""
# A seeded run of three iterations with the plugin, and one without.
TRAINING = """
import os, sys
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup

def train(datasets, output):
    folder = datasets + "/neu_det"
    register_coco_instances("tiny", {}, folder + "/annotations/train.json", folder + "/images")
    cfg = get_cfg()
    cfg.merge_from_file(datasets + "/stock.yaml")
    cfg.OUTPUT_DIR = output
    default_setup(cfg, default_argument_parser().parse_args([]))
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load()
    trainer.train()

for kind in ("with", "without"):
    child = os.fork()
    if child == 0:
        if kind == "with":
            import detectron2_agssp
        assert ("AGSSP" in get_cfg()) == (kind == "with")
        train(sys.argv[1], sys.argv[2] + "/" + kind)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
STOCK = {
    "DATALOADER": {"NUM_WORKERS": 0},
    "DATASETS": {"TRAIN": ("tiny",), "TEST": ()},
    "INPUT": {"MIN_SIZE_TRAIN": (48, 64)},
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "DEVICE": "cpu",
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]]},
        "RESNETS": {
            "DEPTH": 18,
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "RES2_OUT_CHANNELS": 64,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16},
        "ROI_HEADS": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NAME": "StandardROIHeads",
            "NUM_CLASSES": 6,
        },
        "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]},
        "WEIGHTS": "",
    },
    "SEED": 7,
    "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 3, "BASE_LR": 0.01, "WARMUP_ITERS": 0},
}


def python(code: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_import_leaves_large_packages_out():
    assert python(LARGE_PACKAGES).split() == ["[]"]


def test_completion_offers_what_is_imported_late():
    offered = dir(detectron2_agssp)
    assert {*detectron2_agssp.__all__} <= {*offered}
    assert all(getattr(detectron2_agssp, name) is not None for name in detectron2_agssp.__all__)


def test_the_default_config_has_every_key_and_a_user_s_node_is_kept():
    cfg = get_cfg()
    assert cfg.AGSSP.MAPPER == ""
    assert cfg.AGSSP.DISTILL.IN_FEATURES == ("res4", "res5")
    cfg.AGSSP.MAPPER = "mine"
    assert add_agssp_config(cfg).AGSSP.MAPPER == "mine"
    assert get_cfg().AGSSP.MAPPER == ""
    fresh = add_agssp_config(CfgNode())
    assert settings_of(fresh.AGSSP) == settings_of(get_cfg().AGSSP)


def test_settings_of_is_json_ready():
    settings = settings_of(get_cfg().AGSSP)
    assert json.loads(json.dumps(settings)) == settings


def test_installing_twice_changes_nothing():
    def state():
        return (
            DetectionCheckpointer._load_model,
            build.DatasetMapper,
            settings_of(get_cfg().AGSSP),
            dict(DatasetCatalog),
            {name: MetadataCatalog.get(name).as_dict() for name in DatasetCatalog},
        )

    before = state()
    plugin.install()
    assert state() == before


def test_without_a_mapper_in_the_config_the_class_itself_is_used():
    cfg = get_cfg()
    assert type(build.DatasetMapper(cfg, True)) is DatasetMapper
    del cfg["AGSSP"]
    assert type(build.DatasetMapper(cfg, False)) is DatasetMapper


def test_stock_training_is_bit_identical(tmp_path):
    datasets = write_datasets(tmp_path / "datasets")
    (datasets / "stock.yaml").write_text(CfgNode({**STOCK, "VERSION": 2}).dump())
    python(TRAINING, datasets, tmp_path)
    found, expected = (
        torch.load(tmp_path / kind / "model_final.pth", weights_only=True)
        for kind in ("with", "without")
    )
    assert found["iteration"] == expected["iteration"] == 2
    found, expected = found["model"], expected["model"]
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
