#!/usr/bin/env python3
"""Completes the environment of the interpreter that runs it; replaces nothing that is installed.

    python tools/setup_environment.py

Installs the pinned requirements that are missing, Detectron2 (pinned by hash) if it is missing,
and this package in editable mode. Needs nothing but pip. `make setup` calls it.
"""

import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "requirements" / "runtime.txt"
DETECTRON2 = ROOT / "requirements" / "detectron2.txt"
OPENCV = "opencv-python-headless"
OPENCV_BUILDS = (OPENCV, "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")


def pip(*arguments: str) -> None:
    base = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if subprocess.call([*base, *arguments]) != 0:
        sys.exit(f"error: pip install {' '.join(arguments)} failed; its message is above.")


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing_requirements() -> list[str]:
    missing = []
    for line in RUNTIME.read_text().splitlines():
        requirement = line.split("#")[0].strip()
        name = requirement.split("==")[0]
        builds = OPENCV_BUILDS if name == OPENCV else (name,)
        # Of setuptools any version serves that still has pkg_resources.
        too_new = name == "setuptools" and int((installed_version(name) or "0").split(".")[0]) > 80
        if requirement and (too_new or not any(map(installed_version, builds))):
            missing.append(requirement)
    return missing


def main() -> None:
    operators = sorted(path for path in (ROOT / "detectron2_agssp/ops/csrc").rglob("*.[ch]*"))
    files = (RUNTIME, DETECTRON2, ROOT / "pyproject.toml", ROOT / "setup.py", *operators)
    inputs = b"".join(path.read_bytes() for path in files)
    stamp_content = f"{hashlib.sha256(inputs).hexdigest()} {ROOT}"
    stamp = Path(sysconfig.get_paths()["purelib"]) / "detectron2_agssp_setup.txt"
    if stamp.exists() and stamp.read_text() == stamp_content:
        return
    requirements = missing_requirements()
    if requirements:
        print(f"Installing {len(requirements)} missing packages ...", flush=True)
        # What is installed is a constraint: pip must not replace it.
        keep = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
        for name in ("pip", "setuptools", "wheel", None):
            keep.pop(name, None)
        constraint_lines = [f"{name}=={version}\n" for name, version in keep.items()]
        # Or a dependency brings a setuptools without pkg_resources, which Detectron2 imports.
        constraint_lines.append("setuptools<81\n")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.writelines(constraint_lines)
            constraints.flush()
            pip("--constraint", constraints.name, *requirements)
    if importlib.util.find_spec("detectron2") is None:
        print("Installing Detectron2 ...", flush=True)
        target = sysconfig.get_paths()["purelib"]
        # The wheel is tagged for CPython 3.10; its Python part runs on later ones too.
        selection = ("--only-binary=:all:", "--python-version", "3.10", "--target", target)
        pip("--no-deps", "--require-hashes", *selection, "--requirement", str(DETECTRON2))
    pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(stamp_content)
    print("Set-up done. What is there: agssp info", flush=True)


if __name__ == "__main__":
    main()
