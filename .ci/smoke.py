"""Runs the package that the interpreter finds, from maps to a trained detector, in two minutes.

    python .ci/smoke.py [EXPECTED]

From a working folder of its own, so that no checkout is found by chance. EXPECTED is the folder
that the package has to come from.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import detectron2
import numpy as np
from PIL import Image

TRAINING = {
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TEST": (),
    "INPUT.MIN_SIZE_TRAIN": (64, 64),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WARMUP_ITERS": 0,
}
# The script at the head of the arguments, with one import in front.
STOCK = """
import detectron2_agssp, runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], {}, "__main__")
"""
IS_FROM = """
import detectron2_agssp, sys
assert detectron2_agssp.__file__.startswith(sys.argv[1]), detectron2_agssp.__file__
"""


def write_images(images: Path, masks: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        surface = rng.normal(120, 8, (96, 128))
        mask = np.zeros(surface.shape, np.uint8)
        mask[20 : 30 + number, 30 : 60 + 5 * number] = 255
        surface += mask / 4
        for folder, content in ((images, surface), (masks, mask)):
            path = folder / "scratch" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content.clip(0, 255).astype(np.uint8)).save(path)


def run(*arguments: object) -> None:
    print("$", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def agssp(*arguments: object) -> None:
    run("-m", "detectron2_agssp", *arguments)


def training(config: str, dataset: str, output: str, **more: object) -> list[object]:
    """Arguments of a training run; two underscores in a name stand for a dot."""
    settings = {**TRAINING, "DATASETS.TRAIN": (dataset,), "OUTPUT_DIR": output}
    settings |= {name.replace("__", "."): value for name, value in more.items()}
    pairs = [word for pair in settings.items() for word in pair]
    return ["--config-file", f"agssp://{config}.yaml", *pairs]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.chdir(root)
        os.environ["DETECTRON2_DATASETS"] = folder
        agssp("info")
        for command in ([], ["maps"], ["pretrain"], ["evaluate", "maps"]):
            agssp(*command, "--help")
        run("-c", IS_FROM, *(sys.argv[1:] or [""]))

        write_images(root / "images", root / "masks")
        maps = root / "agssp" / "tiny"
        size = ["AGSSP.SCORER.IMAGE_SIZE", 64, "AGSSP.SCORER.NUM_WORKERS", 0]
        agssp("maps", "images", maps, "--config-file", "agssp://maps/mahalanobis.yaml", *size)
        agssp("evaluate", "maps", maps, "masks")
        agssp("boxes", maps, "boxes.json")
        agssp("report", maps, "report")

        stock = Path(detectron2.__file__).parents[1] / "tools" / "train_net.py"
        crop = {"INPUT__CROP__SIZE": [48, 48]}
        run("-c", STOCK, stock, *training("agbp/lite0", "agssp_tiny", "agbp", **crop))
        weights = {"MODEL__WEIGHTS": "agbp/model_final.pth"}
        agdp = training("agdp/faster_rcnn_lite0_fpn", "agssp_tiny_boxes", "agdp", **weights)
        agssp("train", *agdp)
        for file in ("boxes.json", "report/report.html", "agdp/model_final.pth"):
            assert (root / file).is_file(), f"{file} is missing"
    print("The smoke test passed.")


if __name__ == "__main__":
    main()
