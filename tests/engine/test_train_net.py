"""The tools from the command line: AGBP, evaluation only, resuming, AdamW; by a LazyConfig too."""

import pytest
import torch

from tests.child_process import run_in_child, run_script
from tests.tiny_data import TINY_LAZY_AGBP, final_metrics, write_datasets
from tests.tiny_models import CONFIGS, ROOT

SETTINGS = {
    "AGSSP.TIMM.MODEL": "mobilenetv3_small_050",
    "AGSSP.TIMM.WEIGHTS": "",
    "DATALOADER.NUM_WORKERS": "0",
    "DATASETS.TRAIN": "('agssp_tiny',)",
    "INPUT.CROP.SIZE": "[48, 48]",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MIN_SIZE_TRAIN": "(64, 64)",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.WARMUP_ITERS": "0",
}


def run_tool(root, output, *arguments):
    """In a process that has the data sets registered."""
    settings = [word for pair in SETTINGS.items() for word in pair]
    config = ["--config-file", str(CONFIGS / "agbp" / "lite0.yaml")]
    command = [*config, *arguments, *settings, "OUTPUT_DIR", str(output)]
    assert run_in_child(_run_tool, "train_net.py", str(root), command) == 0


def _run_tool(tool, root, arguments):
    import runpy
    import sys

    from detectron2_agssp.data import register_map_folders

    register_map_folders(root)
    sys.argv = [tool, *arguments]
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_datasets(tmp_path_factory.mktemp("datasets"))


def test_agbp_then_evaluation_only(root, tmp_path):
    run_tool(root, tmp_path, "SOLVER.MAX_ITER", "2", "VIS_PERIOD", "1")
    assert (tmp_path / "backbone_final.pth").exists()
    assert 0 <= final_metrics(tmp_path)["total_loss"] <= 4
    (tmp_path / "backbone_final.pth").unlink()
    weights = str(tmp_path / "model_final.pth")
    test = ["DATASETS.TEST", "('agssp_tiny',)", "MODEL.WEIGHTS", weights]
    run_tool(root, tmp_path, "--eval-only", *test)
    assert "cosine_res5" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "backbone_final.pth").exists()


def test_resuming_goes_on(root, tmp_path):
    adamw = ["AGSSP.SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.001"]
    run_tool(root, tmp_path, "SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", *adamw)
    first = torch.load(tmp_path / "model_final.pth", weights_only=True)
    run_tool(root, tmp_path, "--resume", "SOLVER.MAX_ITER", "3", *adamw)
    last = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (first["iteration"], last["iteration"]) == (1, 2)
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()
    optimizer = last["trainer"]["_trainer"]["optimizer"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {3}
    assert (tmp_path / "backbone_final.pth").exists()


def test_a_lazy_config_trains_and_resumes(root, tmp_path):
    settings = {
        **TINY_LAZY_AGBP,
        "lr_multiplier.warmup_length": 0.0,
        "train.device": "cuda",
        "train.output_dir": tmp_path,
    }
    pairs = [f"{key}={value}" for key, value in settings.items()]
    config = ["--config-file", "agssp://lazy/agbp_lite0.py", *pairs]
    for iterations, more in ((2, []), (3, ["--resume"])):
        arguments = [*config, f"train.max_iter={iterations}", *more]
        assert run_in_child(_run_tool, "lazyconfig_train_net.py", str(root), arguments) == 0
        checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
        assert checkpoint["iteration"] == iterations - 1
    assert 0 <= final_metrics(tmp_path)["total_loss"] <= 4
    log = (tmp_path / "log.txt").read_text()
    assert torch.cuda.is_available() or "train.device cuda becomes cpu" in log


def test_a_missing_lazy_config_is_one_line(tmp_path):
    tool, config = ROOT / "tools/lazyconfig_train_net.py", "agssp://lazy/agbp_lite.py"
    done = run_script(tool, "--config-file", config, output=tmp_path)
    assert done.code == 2
    assert done.stderr.startswith(f"error: There is no shipped config {config}. Did you mean ")
    assert done.stderr.count("\n") == 1
