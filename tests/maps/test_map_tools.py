"""The command lines, each in a process of its own."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.maps import MapStore
from tests.child_process import run_command

TINY = [
    "AGSSP.SCORER.WEIGHTS",
    "",
    "AGSSP.SCORER.IMAGE_SIZE",
    "64",
    "AGSSP.SCORER.NUM_WORKERS",
    "0",
]


@pytest.fixture
def run(tmp_path):
    def run_tool(name, *arguments, **settings):
        return run_command(*name.split(), *arguments, output=tmp_path, **settings)

    return run_tool


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("AGSSP:\n  SCORER:\n    STRIDES: (16,)\n    DEVICE: cpu\n")
    return ["--config-file", path]


@pytest.fixture
def map_folder(write_maps, tmp_path):
    """Of one class, whose defect is its left half; and its masks."""
    half = np.kron([[1.0, 0.0]], np.ones((4, 4)))
    maps = write_maps(tmp_path / "maps", {"dent/a.jpg": half}, {"dent/a.jpg": (80, 160)})
    (tmp_path / "masks/dent").mkdir(parents=True)
    mask = np.kron(half, np.ones((20, 20))).astype(np.uint8) * 255
    Image.fromarray(mask).save(tmp_path / "masks/dent/a.png")
    return maps


@pytest.mark.parametrize("order", ["folders first", "config first", "config between"])
def test_generate(run, config, image_folder, tmp_path, order):
    maps = tmp_path / "maps"
    arguments = {
        "folders first": [image_folder, maps, *TINY, *config],
        "config first": [*config, image_folder, maps, *TINY],
        "config between": [image_folder, *config, maps, *TINY],
    }[order]
    done = run("maps", *arguments)
    assert done.code == 0, done.stderr
    assert "6 maps made, 0 were there, 0 images skipped" in done.stdout
    assert "register_unlabeled" in done.stdout
    entry = next(MapStore(maps).entries())
    assert np.load(maps / entry["map"]).shape == (4, 4), "STRIDES of the file, size of the pairs"


def test_generate_into_the_data_sets_folder(run, config, image_folder, tmp_path):
    """With the environment's folder of data sets."""
    folders = [image_folder, tmp_path / "agssp/mine"]
    environment = {"DETECTRON2_DATASETS": str(tmp_path)}
    done = run("maps", *folders, *config, *TINY, environment=environment)
    assert done.code == 0, done.stderr
    assert "('agssp_mine',)" in done.stdout


@pytest.mark.parametrize("pairs_first", [True, False])
def test_pseudo_boxes(run, map_folder, tmp_path, pairs_first):
    output = tmp_path / "boxes.json"
    config = tmp_path / "boxes.yaml"
    config.write_text("AGSSP:\n  BOXES:\n    THRESHOLD_MODE: fixed\n")
    pairs, file = ["AGSSP.BOXES.THRESHOLD", "0.25"], ["--config-file", config]
    options = [*pairs, *file] if pairs_first else [*file, *pairs]
    done = run("boxes", map_folder, output, *options)
    assert done.code == 0, done.stderr
    assert "1 boxes in 1 of 1 images, threshold 0.2500" in done.stdout
    assert len(json.loads(output.read_text())["annotations"]) == 1


def test_evaluate(run, map_folder, tmp_path):
    done = run(
        "evaluate maps",
        *["--size", 0, map_folder, tmp_path / "masks", "--output", tmp_path / "table.json"],
    )
    assert done.code == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()]
    assert rows[-2:] == ["dent", "mean"]
    assert json.loads((tmp_path / "table.json").read_text())["dent"]["auroc"] > 0.99


def test_evaluate_pseudo_boxes(run, map_folder, tmp_path):
    """The label is the map's defect."""
    image = {"id": 1, "file_name": "train/dent/a.jpg", "height": 80, "width": 160}
    label = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 80, 80]}
    content = {"images": [image], "annotations": [label], "categories": [{"id": 1, "name": "dent"}]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    done = run(
        "evaluate boxes",
        *["--thresholds", "0.2,0.4", map_folder, tmp_path / "labels.json"],
        *["AGSSP.BOXES.MARGIN", "0.25", "--output", tmp_path / "table.json"],
    )
    assert done.code == 0, done.stderr
    assert "| 0.75*" in done.stdout
    assert "Verdict: 1 boxes in 1 labelled images are too few to tell" in done.stdout
    table = json.loads((tmp_path / "table.json").read_text())
    assert not table["verdict"]["better"]
    thresholds = table["thresholds"]
    assert [one["threshold"] for one in thresholds] == [0.2, 0.4, 0.75]
    assert all(one["all_labels"]["recall"] == 1 for one in thresholds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps", "absent", "out"], "error: Image folder .*absent' does not"),
        (["maps", ".", "out"], "holds no images"),
        (["maps", ".", "out", "AGSSP.SCORER.SIZE", "3"], "AGSSP.SCORER.SIZE"),
        (["maps", ".", "out", "AGSSP.SCORER.NAME"], r"\['AGSSP.SCORER.NAME'\]"),
        (["maps", ".", "out", "--config-file", "no.yaml"], r"no\.yaml"),
        (["maps", ".", "out", "--config-file", "bad.yaml"], r"bad\.yaml"),
        (["boxes", "absent", "out.json"], r"absent has no manifest\.jsonl"),
        (["evaluate boxes", "absent", "labels.json"], r"labels\.json"),
        (["evaluate maps", "absent", "also"], "Mask folder .*also' does not exist"),
    ],
)
def test_errors(run, tmp_path, monkeypatch, arguments, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    (empty / "bad.yaml").write_text("AGSSP: [1, 2\n")
    done = run(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert re.search(message, done.stderr), done.stderr
