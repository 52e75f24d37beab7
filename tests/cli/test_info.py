"""`agssp info`: what is there, what is missing, wherever it runs."""

import subprocess
import sys

import pytest

from detectron2_agssp import __version__, ops
from detectron2_agssp.ops import native
from detectron2_agssp.utils import collect_env
from tests.cli.test_main import CONSOLE_SCRIPT
from tests.tiny_models import ROOT

WAYS = {"module": ["-m", "detectron2_agssp"], "console script": ["-c", CONSOLE_SCRIPT]}


def test_it_reports_what_is_there():
    rows = dict(collect_env.collect_environment())
    assert rows["detectron2_agssp"] == __version__
    for module in ("torch", "detectron2", "cv2", "timm"):
        assert "missing" not in rows[module]
        assert rows[module][0].isdigit(), rows[module]
    assert rows["Detectron2's compiled part"].startswith(("loaded", "not loaded"))


def test_it_reports_each_operator(monkeypatch):
    monkeypatch.setattr(native, "MISSING", "")
    monkeypatch.setattr(native, "WANTED", "")
    for index, name in enumerate(ops.__all__):
        module = sys.modules[f"detectron2_agssp.ops.{name}"]
        devices = (frozenset(), {"cpu"}, {"cpu", "cuda"})[index % 3]
        monkeypatch.setattr(module, "NATIVE_DEVICES", devices)
    rows = dict(collect_env.collect_environment())
    assert {name: value for name, value in rows.items() if name.startswith("ops.")} == {
        "ops.anomaly_boxes": "pure PyTorch (the compiled library has no kernel of it)",
        "ops.channel_energy": "compiled for cpu",
        "ops.min_cosine_distance": "compiled for cpu and cuda",
        "ops.text_anomaly_score": "pure PyTorch (the compiled library has no kernel of it)",
    }
    monkeypatch.setattr(native, "MISSING", "not built")
    rows = dict(collect_env.collect_environment())
    assert rows["ops.channel_energy"] == "pure PyTorch (compiled ones: not built)"


@pytest.mark.parametrize("way", WAYS)
def test_it_runs_where_nothing_is_installed(way):
    """``-S`` hides site-packages: no Detectron2, no torch; each line says how to get it."""
    done = subprocess.run(
        [sys.executable, "-S", *WAYS[way], "info"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["detectron2"] == "missing: make setup"
    assert lines["torch"].startswith("missing: pip install torch==")
    for module, (_, command) in {**collect_env.DEPENDENCIES, **collect_env.OPTIONAL}.items():
        assert lines[module] == f"missing: {command}"


def test_it_runs_beside_an_installed_detectron2():
    command = [sys.executable, "-m", "detectron2_agssp", "info"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "missing: make setup" not in done.stdout
    assert "RuntimeWarning" not in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_other_commands_name_what_is_missing_in_one_line(way):
    done = subprocess.run(
        [sys.executable, "-S", *WAYS[way], "maps", "images", "maps"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: detectron2_agssp needs ")
    assert "`agssp info` lists what is missing" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_distribution_without_metadata_is_reported_as_installed(monkeypatch):
    row = {"json": (("no-such-distribution",), "pip install json")}
    monkeypatch.setattr(collect_env, "DEPENDENCIES", row)
    assert dict(collect_env.collect_environment())["json"] == "installed, version unknown"
