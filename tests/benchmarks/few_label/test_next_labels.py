"""Draws of which a part is chosen."""

import json

import pytest

from benchmarks.few_label import next_labels
from benchmarks.few_label.data import BenchmarkData
from benchmarks.few_label.training import Workspace
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.images import list_images


@pytest.fixture
def benchmark(write_benchmark, sample_root, tmp_path, monkeypatch):
    """Its data set may be written to."""
    root = tmp_path / "datasets" / "sample"
    (root / "annotations").mkdir(parents=True)
    (root / "images").symlink_to(sample_root / "sample" / "images")
    for path in (sample_root / "sample" / "annotations").iterdir():
        (root / "annotations" / path.name).write_bytes(path.read_bytes())
    written = write_benchmark(fractions=[20, 50])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    monkeypatch.setattr(Workspace, "maps_done", lambda *_: True)
    return written


def finish_cell(results, draw, fraction=20):
    (results / "cells").mkdir(parents=True, exist_ok=True)
    cell = {"arm": "imagenet", "draw": draw, "seed": 1, "learning_rate": 0.001}
    path = results / "cells" / f"{fraction}_{draw}.json"
    path.write_text(json.dumps({**cell, "fraction": fraction}))


def test_chosen_images_complete_the_smaller_draw(benchmark, tmp_path, monkeypatch, empty_catalogs):
    output, results = tmp_path / "out", tmp_path / "results"
    data = BenchmarkData(benchmark, output / "data")
    data.prepare(results, progress=False)
    held_out = {image["file_name"] for image in read_coco(data.root / "validation.json")["images"]}
    before, random = (
        {image["file_name"] for image in read_coco(data.root / f"{name}.json")["images"]}
        for name in ("labeled_20pct_draw1", "labeled_50pct_draw1")
    )
    asked = {}

    def choose(run, images, path, *, count, maps):
        asked[path.stem] = str(run), count, maps
        return sorted(set(list_images(images)) - before)[:count]

    monkeypatch.setattr(next_labels, "next_images", choose)
    finish_cell(results, draw=1)
    (line,) = next_labels.write_draws(benchmark, output, results, 20, 50)
    path = benchmark.data.folder / "annotations" / "next_50pct_draw1.json"
    drawn = read_coco(path)
    names = {image["file_name"] for image in drawn["images"]}
    assert before < names
    assert len(names) == len(random)
    assert not names & held_out
    train = read_coco(benchmark.data.folder / benchmark.data.train)
    ids = {image["id"] for image in drawn["images"]}
    expected = [entry for entry in train["annotations"] if entry["image_id"] in ids]
    assert drawn["annotations"] == expected
    assert line.startswith(f"{path}: {len(names)} images, {len(expected)} boxes (")
    run, count, maps = asked["draw1"]
    assert run.endswith("runs/imagenet_20pct_draw1_seed1_lr0.001")
    assert count == len(random) - len(before)
    assert maps == output / "maps"


def test_without_a_detector_there_is_nothing_to_choose_by(benchmark, tmp_path):
    finish_cell(tmp_path / "results", draw=0, fraction=50)
    with pytest.raises(FileNotFoundError, match="no finished imagenet of 20 %"):
        next_labels.write_draws(benchmark, tmp_path / "out", tmp_path / "results", 20, 50)
