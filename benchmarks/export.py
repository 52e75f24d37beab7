"""Milliseconds of a detector and of its exports, one image at a time, side by side.

    python -m benchmarks.export --images IMAGE_DIR --int8 IMAGE_DIR --threads 2 RUN [RUN ...]

Each export is made and checked first, those in int8 by AP, too, on the run's validation set or on
that of --data. DefaultPredictor resizes the image, the others have it resized. All take turns, so
that what else the machine does meets all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor
from tabulate import tabulate

import detectron2_agssp  # noqa: F401  (registers everything)
from benchmarks.machine import describe_machine
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.inference import open_run
from detectron2_agssp.inference.export import export_model
from detectron2_agssp.inference.export_check import as_detector, check_images
from detectron2_agssp.inference.export_files import format_of, load
from detectron2_agssp.utils.command_line import CommandParser, readable_errors

FILES = {
    "ONNX Runtime": "model.onnx",
    "OpenVINO": "model",
    "TorchScript": "model.ts",
    "ONNX Runtime int8": "int8.onnx",
    "OpenVINO int8": "int8",
}
WARM_UP = 5


def measure(
    run: str, images: str | None, int8: str | None, rounds: int, options: list[str]
) -> tuple[str, dict]:
    """The detector's name, and the median milliseconds of each way to run it."""
    opened = open_run(run, [*options, "MODEL.DEVICE", "cpu"])
    cfg, model = opened.cfg.clone(), opened.build_model()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(opened.weights)
    image = next(iter(check_images(cfg, images)))
    inputs, bgr = [model_input(cfg, image)], image[:, :, ::-1].copy()
    predictor = DefaultPredictor(cfg)
    ways: dict[str, Callable] = {
        "DefaultPredictor": lambda: predictor(bgr),
        "PyTorch": lambda: model(inputs),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in _ways(int8):
            path = Path(folder, FILES[name])
            agreement = export_model(
                model,
                cfg,
                path,
                opened.classes,
                threshold=0.5 if opened.threshold is None else opened.threshold,
                images=images,
                int8=int8 if name.endswith("int8") else None,
            )
            print(f"{run}: {name}, {agreement}")
            exported = as_detector(load(path, format_of(path)), cfg.INPUT.FORMAT)
            ways[name] = lambda exported=exported: exported(inputs)
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for index in range(-WARM_UP, rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if index >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
    size = " x ".join(map(str, inputs[0]["image"].shape[1:]))
    boxes = len(model(inputs)[0]["instances"])
    title = f"{Path(run).name} ({cfg.MODEL.META_ARCHITECTURE}, {size}, {boxes} boxes)"
    return title, {name: statistics.median(values) for name, values in times.items()}


def _ways(int8: str | None) -> list[str]:
    return [name for name in FILES if int8 or not name.endswith("int8")]


def main() -> None:
    parser = CommandParser("python -m benchmarks.export", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a training")
    parser.add_argument("--images", metavar="DIR", help="by default the run's own, or made-up ones")
    parser.add_argument("--int8", metavar="DIR", help="measure int8, too, calibrated on these")
    parser.add_argument("--data", metavar="NAME", help="labelled data set for AP in int8")
    parser.add_argument("--rounds", type=int, default=100, help="default: 100")
    parser.add_argument("--threads", type=int, default=2, help="of each runtime; default: 2")
    parser.add_argument("--size", type=int, default=192, help="of the shorter side; default: 192")
    args = parser.parse()
    torch.set_num_threads(args.threads)
    options = ["INPUT.MIN_SIZE_TEST", str(args.size), "INPUT.MAX_SIZE_TEST", str(2 * args.size)]
    if args.data:
        if args.data not in DatasetCatalog:
            parser.error(f"--data: {args.data} is not registered.")
        options += ["DATASETS.TEST", str((args.data,))]
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino"))
    print(f"{describe_machine()}, {versions}; batch 1, median milliseconds of {args.rounds}")
    exports = _ways(args.int8)
    headers = ["detector", "DefaultPredictor", "PyTorch", *exports, "PyTorch / best export"]
    rows = []
    with readable_errors():
        for run in args.runs:
            title, times = measure(run, args.images, args.int8, args.rounds, options)
            best = min(times[name] for name in exports)
            rows.append([title, *times.values(), times["PyTorch"] / best])
            print(tabulate(rows, headers, tablefmt="github", floatfmt=".1f"), flush=True)


if __name__ == "__main__":
    main()
