"""agssp backbone from the command line."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from tests.child_process import run_command
from tests.tiny_models import SMALL_R50, make_cfg, make_model, randomize


@pytest.fixture
def run_dir(tmp_path):
    """What a training run leaves: config.yaml and model_final.pth."""
    settings = {**SMALL_R50, "MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0]}
    model = make_model("agbp/R50.yaml", settings)
    randomize(model.backbone)
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(make_cfg("agbp/R50.yaml", settings).dump())
    return tmp_path


def export(folder, *arguments):
    return run_command("backbone", *arguments, output=folder)


def test_exports_the_checkpoint_and_records_its_config(run_dir):
    checkpoint, output = run_dir / "model_final.pth", run_dir / "backbone.pth"
    config = ["--config-file", run_dir / "config.yaml"]
    done = export(run_dir, *config, checkpoint, output)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == f"Wrote {output}\n"
    exported = torch.load(output, weights_only=True)
    assert exported["agssp"]["pixel_mean"] == [1.0, 2.0, 3.0]
    trained = torch.load(checkpoint, weights_only=True)["model"]
    assert exported["model"]
    for name, tensor in exported["model"].items():
        assert torch.equal(tensor, trained[f"backbone.{name}"])


def test_pairs_override_the_config_and_a_difference_is_told(run_dir):
    config = ["--config-file", run_dir / "config.yaml"]
    files = [run_dir / "model_final.pth", run_dir / "backbone.pth"]
    done = export(run_dir, *files, *config, "MODEL.PIXEL_MEAN", "[9.0, 9.0, 9.0]")
    assert done.code == 0
    assert "MODEL.PIXEL_MEAN: [1.0, 2.0, 3.0]" in done.stderr
    assert torch.load(files[1], weights_only=True)["agssp"]["pixel_mean"] == [9.0] * 3


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "message"),
    [
        ("none.pth", ["--config-file", "config.yaml"], "There is no checkpoint"),
        ("model_final.pth", [], "--config-file is missing: the config.yaml beside"),
        ("model_final.pth", ["--config-file", "none.yaml"], "none.yaml"),
        (
            "model_final.pth",
            ["--config-file", "config.yaml", "MODEL.RESNETS.DEPTH", "101"],
            "of the 520 backbone tensors",
        ),
    ],
)
def test_errors_are_one_message(run_dir, checkpoint, arguments, message):
    arguments = [run_dir / word if word.endswith(".yaml") else word for word in arguments]
    output = run_dir / "backbone.pth"
    done = export(run_dir, run_dir / checkpoint, output, *arguments)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()
