"""python -m benchmarks.inference: what it times, and what it refuses."""

import runpy
import sys

import pytest

from benchmarks.inference.speed import measure_inference
from tests.tiny_models import CONFIGS, SMALL_TIMM, make_cfg

FINETUNE = "finetune/faster_rcnn_lite0_fpn.yaml"
SMALL = {
    **SMALL_TIMM,
    "AGSSP.TIMM.MODEL": "mobilenetv3_small_050",
    "INPUT.MIN_SIZE_TEST": 64,
    "DATASETS.TEST": (),
}


def test_fewer_images_than_asked_for_are_repeated(image_folder):
    speeds = measure_inference(make_cfg(FINETUNE, SMALL), image_folder, num_images=8)
    assert list(speeds) == ["end to end", "model alone"]
    for speed in speeds.values():
        assert 0 < speed.milliseconds <= speed.slow_milliseconds
        assert speed.frames_per_second == 1000 / speed.milliseconds


def test_the_model_gets_images_resized_in_its_own_channel_order(image_folder, monkeypatch):
    from detectron2.modeling import GeneralizedRCNN

    seen = []
    forward = GeneralizedRCNN.forward
    monkeypatch.setattr(
        GeneralizedRCNN,
        "forward",
        lambda model, inputs: seen.append(inputs[0]) or forward(model, inputs),
    )
    measure_inference(make_cfg(FINETUNE, SMALL), image_folder, num_images=1, precision="bf16")
    assert all(min(one["image"].shape[1:]) == 64 for one in seen)
    # The end-to-end way and the prepared input of the same file are the same.
    half = len(seen) // 2
    first, second = seen[half - 1]["image"], seen[-1]["image"]
    assert (first == second).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"precision": "int8"}, "precision is 'int8'. Choices: fp32, bf16, fp16"),
    ],
)
def test_wrong_arguments(image_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_inference(make_cfg(FINETUNE, SMALL), image_folder, **arguments)


def test_no_images(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        measure_inference(make_cfg(FINETUNE, SMALL), tmp_path)


def test_the_tool_prints_a_table(image_folder, monkeypatch, capsys):
    settings = [str(word) for pair in SMALL.items() for word in pair]
    config = ["--config-file", str(CONFIGS / FINETUNE)]
    command = [str(image_folder), "--num-images", "2", *config, *settings]
    monkeypatch.setattr(sys, "argv", ["benchmark_inference.py", *command])
    runpy.run_module("benchmarks.inference", run_name="__main__")
    output = capsys.readouterr().out
    assert "batch 1" in output
    assert "| end to end" in output
