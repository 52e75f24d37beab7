"""What pyproject.toml cannot say: the compiled operators, where the configs lie, and that any build
of OpenCV serves."""

import os
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Distribution, find_packages, setup

ROOT = Path(__file__).parent
OTHER_OPENCV_BUILDS = {
    "opencv-python",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
}


class AnyOpenCV(Distribution):
    """Requires OpenCV's headless build, unless the target environment has another one: two builds
    share one folder and overwrite each other."""

    def parse_config_files(self, *args, **kwargs):
        super().parse_config_files(*args, **kwargs)
        # Looked up by path, because an isolated build sees only itself.
        paths = sysconfig.get_paths()
        installed = {
            (dist.metadata["Name"] or "").lower()
            for dist in metadata.distributions(path=[paths["purelib"], paths["platlib"]])
        }
        if installed & OTHER_OPENCV_BUILDS:
            self.install_requires[:] = [
                requirement
                for requirement in self.install_requires
                if not requirement.startswith("opencv-python-headless")
            ]


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


setup(
    distclass=AnyOpenCV,
    packages=[*find_packages(include=["detectron2_agssp*"]), "detectron2_agssp.configs"],
    # The shipped configs: in a wheel within the package, in a checkout beside it.
    package_dir={"detectron2_agssp.configs": "configs"},
    **compiled_operators(),
)
