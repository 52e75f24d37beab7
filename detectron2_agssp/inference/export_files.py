"""The files of an export: how each format is written, and run by its own runtime."""

import importlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from detectron2_agssp.inference.export_graph import OUTPUTS, OneImageGraph
from detectron2_agssp.io.files import write_json

# Format -> what it is written and run with, beside torch.
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "torchscript": (),
    "openvino": ("onnx", "openvino"),
}
# The first that has RoIAlign as Detectron2 aligns it, and the last that the exporter knows.
OPSETS = range(16, 21)
# In an OpenVINO folder, and a file of this name inside a TorchScript archive.
DESCRIPTION = "agssp.json"
# The key of ONNX's metadata.
KEY = "agssp"
# Neither square nor a multiple of any stride, so that no size is taken for another's.
_EXAMPLE = (2, 3, 100, 132)

Runtime = Callable[[np.ndarray], list[np.ndarray]]


def format_of(path: Path) -> str:
    """The format that a path asks for: by its suffix, "openvino" for a folder.

    Raises:
        ValueError: a suffix of none.
    """
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".ts":
        return "torchscript"
    if not path.suffix or path.is_dir():
        return "openvino"
    raise ValueError(
        f"{path} ends in {path.suffix}, which is no format of an export. Name a file that ends in "
        ".onnx (ONNX) or .ts (TorchScript), or a folder, without a suffix, for OpenVINO."
    )


def check_packages(kind: str) -> None:
    """Imports what a format needs.

    Raises:
        ImportError: something is missing; names the command that installs it.
    """
    for name in PACKAGES[kind]:
        imported(name)


def check_opset(opset: int) -> None:
    """Raises ValueError for an ONNX opset that detectors cannot be written in."""
    if opset not in OPSETS:
        raise ValueError(
            f"The ONNX opset {opset} cannot hold a detector: it must be between {OPSETS[0]} and "
            f"{OPSETS[-1]}."
        )


def write(
    graph: nn.Module,
    path: Path,
    kind: str,
    description: Mapping[str, Any],
    opset: int,
    rewrite: Callable[[Path], None] | None = None,
) -> None:
    """Writes the graph, and the description with it.

    Args:
        graph: of ``export_graph.exportable``.
        path: a file, or for OpenVINO a folder; it must not exist.
        kind: of :func:`format_of`.
        description: what can be written as JSON.
        opset: of ONNX, also on the way to OpenVINO.
        rewrite: called with the ONNX file, also on the way to OpenVINO, which it may change.
    """
    example = torch.zeros(_EXAMPLE, dtype=torch.uint8)
    if isinstance(graph, OneImageGraph):
        example = example[:1]
    # That a shape is taken from the example is what the check is for.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            traced = torch.jit.trace(graph, example, check_trace=False)
            files = {DESCRIPTION: json.dumps(description, indent=2)}
            torch.jit.save(torch.jit.freeze(traced), str(path), _extra_files=files)
        elif kind == "onnx":
            _write_onnx(graph, path, example, description, opset, rewrite)
        else:
            _write_openvino(graph, path, example, description, opset, rewrite)


def load(path: Path, kind: str) -> Runtime:
    """The written file in its runtime, on the CPU, with as many threads as torch has: images
    (N, 3, H, W) uint8 -> the outputs."""
    threads = torch.get_num_threads()
    if kind == "torchscript":
        module = torch.jit.load(str(path), map_location="cpu")

        def run(images: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [output.numpy() for output in module(torch.from_numpy(images))]

        return run
    if kind == "onnx":
        runtime = imported("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        session = runtime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})
    # Its default is bfloat16 where the processor has it, which moves boxes by pixels.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    model = imported("openvino").Core().compile_model(path / "model.xml", "CPU", settings)

    def infer(images: np.ndarray) -> list[np.ndarray]:
        results = model(images)
        return [results[name] for name in OUTPUTS]

    return infer


def _write_onnx(graph, path, example, description, opset, rewrite) -> None:
    axes: dict[str, dict[int, str]] = {"images": {2: "height", 3: "width"}}
    axes |= {name: {1: "detections"} for name in OUTPUTS[:3]}
    if len(example) > 1:
        for name in ("images", *OUTPUTS):
            axes.setdefault(name, {})[0] = "batch"
    torch.onnx.export(
        graph,
        (example,),
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=["images"],
        output_names=list(OUTPUTS),
        dynamic_axes=axes,
    )
    if rewrite is not None:
        rewrite(path)
    onnx = imported("onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: json.dumps(description)})
    onnx.save(model, path)


def _write_openvino(graph, path, example, description, opset, rewrite) -> None:
    openvino = imported("openvino")
    path.mkdir()
    intermediate = path / "model.onnx"
    _write_onnx(graph, intermediate, example, description, opset, rewrite)
    model = openvino.convert_model(intermediate)
    openvino.save_model(model, path / "model.xml", compress_to_fp16=False)
    intermediate.unlink()
    write_json(path / DESCRIPTION, description)


def publish(temporary: Path, path: Path) -> None:
    """Puts a written file or folder in its place, and that of an earlier export aside.

    Raises:
        ValueError: in its place is a folder that is no export.
    """
    if temporary.is_dir() and path.is_dir():
        old = temporary.with_name("old")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old)
    else:
        temporary.replace(path)


def check_place(path: Path, kind: str) -> None:
    """Raises ValueError where an export would replace what is none."""
    if kind != "openvino" or not path.exists():
        return
    if path.is_file():
        raise ValueError(f"{path} is a file, but an OpenVINO export is a folder.")
    if any(path.iterdir()) and not (path / DESCRIPTION).is_file():
        raise ValueError(f"{path} holds other files than an export; name a folder of its own.")


def imported(name: str) -> ModuleType:
    """A package that exports need.

    Raises:
        ImportError: it is missing; names the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The export needs {error.name}, which is not installed: pip install {error.name} (all "
            "that exports need: pip install 'detectron2_agssp[export]')."
        ) from error
