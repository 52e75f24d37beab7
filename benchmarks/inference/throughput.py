"""Images per second from files to boxes: `agssp predict` against Detectron2's DefaultPredictor.

    python -m benchmarks.inference.throughput IMAGE_DIR --num-images 256 [--precision bf16]

Both detect above the same score, in processes of their own, in turns; DefaultPredictor takes one
image after the other, as read by OpenCV, in float32. Without --run, the shipped configs of two
small detectors with untrained heads, which detect next to nothing.
"""

import functools
import itertools
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.machine import describe_machine
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.inference.detector import Detector
from detectron2_agssp.inference.inputs import open_inputs
from detectron2_agssp.inference.pipeline import Pipeline
from detectron2_agssp.inference.run import open_run
from detectron2_agssp.io.config_reading import read_config
from detectron2_agssp.io.images import ImageReader, list_images
from detectron2_agssp.utils.command_line import CommandParser, readable_errors
from detectron2_agssp.utils.cpu_memory import keep_freed_memory
from detectron2_agssp.utils.precision import PRECISIONS

CONFIGS = ("faster_rcnn_lite0_fpn", "yolo_cspdarknet_n")
SCORE = 0.5
CLASSES = ["AGSSP.PREDICT.CLASSES", str(tuple("abcdef"))]
WARM_UP = 8


def main() -> None:
    parser = CommandParser("python -m benchmarks.inference.throughput", __doc__)
    parser.add_argument("image_dir", help="folder of images")
    parser.add_argument("--run", action="append", default=[], help="of a trained detector")
    parser.add_argument("--num-images", type=int, default=256, help="default: 256")
    parser.add_argument("--rounds", type=int, default=3, help="of each way; default: 3")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of agssp predict; default: fp32"
    )
    args = parser.parse()
    with readable_errors(), tempfile.TemporaryDirectory() as folder:
        runs = args.run or [write_untrained(name, Path(folder)) for name in CONFIGS]
        names = itertools.islice(list_images(args.image_dir), args.num_images)
        paths = [str(Path(args.image_dir, name)) for name in names]
        rows = [compare(run, paths, args.rounds, args.precision) for run in runs]
    print(describe_machine())
    stock, own = "DefaultPredictor", "agssp predict"
    headers = ["detector", f"{stock}, images/s", f"{own}, images/s", "ratio"]
    headers += [f"{stock}, CPU ms", f"{own}, CPU ms", "ratio"]
    floats = ("", ".1f", ".1f", ".2f", ".1f", ".1f", ".2f")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=floats))


def write_untrained(name: str, folder: Path) -> Path:
    """A run of a shipped config's model as it is built."""
    cfg = read_config(f"agssp://finetune/{name}.yaml")
    torch.manual_seed(0)
    run = folder / name
    run.mkdir()
    CheckedCheckpointer(build_model(cfg), str(run)).save("model_final")
    (run / "config.yaml").write_text(cfg.dump())
    return run


def compare(run: str | Path, paths: list[str], rounds: int, precision: str = "fp32") -> list:
    """A row of the table: medians of the rounds, which take turns; ``precision`` is of ours."""
    ways = (measure_default, functools.partial(measure_predict, precision=precision))
    wall: dict = {way: [] for way in ways}
    cpu: dict = {way: [] for way in ways}
    for _, way in itertools.product(range(rounds), ways):
        # A process of its own: how memory is kept cannot be taken back.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            seconds, cpu_seconds = pool.submit(way, str(run), paths).result()
        wall[way].append(seconds / len(paths))
        cpu[way].append(1000 * cpu_seconds / len(paths))
    stock, own = (1 / statistics.median(wall[way]) for way in ways)
    stock_cpu, own_cpu = (statistics.median(cpu[way]) for way in ways)
    return [Path(run).name, stock, own, own / stock, stock_cpu, own_cpu, stock_cpu / own_cpu]


def measure_default(run: str, paths: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of Detectron2's way."""
    opened = open_run(run, _options(run))
    cfg: CfgNode = opened.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(opened.weights)
    cfg.DATASETS.TEST = ()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = SCORE
    cfg.AGSSP.YOLO.SCORE_THRESH_TEST = cfg.AGSSP.FCOS.SCORE_THRESH_TEST = SCORE
    predictor = DefaultPredictor(cfg)

    def detect(some: list[str]) -> None:
        for path in some:
            predictor(cv2.imread(path))["instances"].to("cpu")

    return _timed(detect, paths)


def measure_predict(run: str, paths: list[str], precision: str) -> tuple[float, float]:
    """Wall and CPU seconds of this package's."""
    keep_freed_memory()
    opened = open_run(run, [*_options(run), "AGSSP.PREDICT.PRECISION", precision])
    detector = Detector(opened, threshold=SCORE)

    def detect(some: list[str]) -> None:
        inputs = open_inputs(some, ImageReader(opened.cfg))
        list(Pipeline(detector, inputs).run(progress=False))

    return _timed(detect, paths)


def _options(run: str) -> list[str]:
    return CLASSES if Path(run).name in CONFIGS else []


def _timed(detect, paths: list[str]) -> tuple[float, float]:
    detect(paths[:WARM_UP])
    wall, cpu = time.perf_counter(), time.process_time()
    detect(paths)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
