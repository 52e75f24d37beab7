"""Draws, validation images and what pretraining may see."""

import json
import shutil
from collections import Counter

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks.few_label.data import BenchmarkData, draw_labeled
from detectron2_agssp.io.coco import coco_categories, read_coco, subset, write_coco
from detectron2_agssp.io.images import list_images
from tests.benchmarks.few_label.tiny_benchmark import DATA


def made(benchmark, root) -> BenchmarkData:
    data = BenchmarkData(benchmark, root / "data")
    data.prepare(root, progress=False)
    return data


def names(path) -> set[str]:
    return {image["file_name"] for image in read_coco(path)["images"]}


def test_no_image_is_validated_on_that_was_trained_on(write_benchmark, tmp_path):
    data = made(write_benchmark(fractions=[25, 50, 100]), tmp_path)
    validation = names(data.root / "validation.json")
    assert len(validation) == 6
    draws = sorted(path.stem for path in data.root.glob("labeled_*.json"))
    assert draws == [
        "labeled_100pct_draw0",
        "labeled_25pct_draw0",
        "labeled_25pct_draw1",
        "labeled_50pct_draw0",
        "labeled_50pct_draw1",
    ]
    for draw in draws:
        labeled = names(data.root / f"{draw}.json")
        assert labeled
        assert not labeled & validation
    # The whole of train but the validation images; a small draw is part of a larger one.
    assert len(names(data.root / "labeled_100pct_draw0.json")) == 20 - 6
    for draw in (0, 1):
        small = names(data.root / f"labeled_25pct_draw{draw}.json")
        assert small < names(data.root / f"labeled_50pct_draw{draw}.json")


def test_the_same_settings_give_the_same_files(write_benchmark, tmp_path):
    first = made(write_benchmark(), tmp_path / "a")
    second = made(write_benchmark(), tmp_path / "b")
    contents = [
        {path.name: path.read_bytes() for path in data.root.glob("*.json")}
        for data in (first, second)
    ]
    assert "validation.json" in contents[0]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("part", [slice(None, None, -1), slice(1, None)])
def test_classes_that_differ_between_splits(
    write_benchmark, tmp_path, sample_root, monkeypatch, part
):
    """Swapped ids would give a perfect detector an AP of 0; a missing one, another's class."""
    root = tmp_path / "datasets" / "sample"
    shutil.copytree(sample_root / "sample", root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    path = root / "annotations" / "test.json"
    content = read_coco(path)
    classes = [entry["name"] for entry in content["categories"]]
    write_coco(path, {**content, "categories": coco_categories(classes[part])})
    with pytest.raises(ValueError, match=r"test has the categories .*, but validation"):
        made(write_benchmark(), tmp_path / "out")
    assert not list((tmp_path / "out/data").glob("*.json"))


def test_validation_images_stay_when_draws_are_added(write_benchmark, tmp_path):
    chosen = names(made(write_benchmark(fractions=[25]), tmp_path).root / "validation.json")
    recorded = tmp_path / "validation_images.json"
    assert json.loads(recorded.read_text()) == sorted(chosen)
    more = write_benchmark(fractions=[25, 75], draws=[0, 1, 2])
    shutil.rmtree(tmp_path / "data")
    data = made(more, tmp_path)
    assert names(data.root / "validation.json") == chosen
    assert not chosen & names(data.root / "labeled_75pct_draw2.json")
    # Without the results, the output's.
    recorded.unlink()
    assert names(made(more, tmp_path).root / "validation.json") == chosen


def test_validation_images_of_another_run_or_data_set(write_benchmark, tmp_path):
    benchmark = write_benchmark(fractions=[10])
    made(benchmark, tmp_path)
    recorded = tmp_path / "validation_images.json"
    recorded.write_text(json.dumps(["gone.png", *json.loads(recorded.read_text())[1:]]))
    with pytest.raises(ValueError, match="other validation images"):
        made(benchmark, tmp_path)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ValueError, match="1 of the validation images chosen earlier"):
        made(benchmark, tmp_path)


def test_pretraining_sees_no_held_out_image(write_benchmark, tmp_path, sample_root, monkeypatch):
    root = tmp_path / "datasets" / "sample"
    shutil.copytree(sample_root / "sample", root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    benchmark = write_benchmark()
    train = root / "images" / "train"
    before = set(list_images(train))
    shutil.copy(next((root / "images" / "test").rglob("*.png")), train / "zzz_copy.png")
    data = made(benchmark, tmp_path / "out")
    held_out = names(data.root / "validation.json")
    kept = before - held_out
    assert set(list_images(data.unlabeled)) == kept
    content = json.loads(data.near_duplicates_path.read_text())
    assert content["kept"] == len(kept)
    assert set(content["left_out"]) == {"zzz_copy.png", *held_out}


def test_nothing_left_to_pretrain_on_is_an_error(write_benchmark, tmp_path):
    data = {**DATA, "unlabeled": "images/test"}
    with pytest.raises(ValueError, match="nothing to pretrain on"):
        made(write_benchmark(data=data), tmp_path)


def test_given_draws_are_taken(write_benchmark, tmp_path, sample_root, monkeypatch):
    root = tmp_path / "datasets" / "sample"
    shutil.copytree(sample_root / "sample", root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    train = read_coco(root / "annotations" / "train.json")
    drawn = train["images"][:5]
    chosen = {image["file_name"] for image in drawn}
    given = root / "annotations" / "few_50_0.json"
    given.write_text(json.dumps(subset(train, {image["id"] for image in drawn})))
    settings = {**DATA, "validation_images": 4}
    labeled = {"labeled": "annotations/few_{fraction}_{draw}.json"}
    benchmark = write_benchmark(data={**settings, **labeled}, draws=[0])
    data = made(benchmark, tmp_path / "out")
    assert names(data.root / "labeled_50pct_draw0.json") == chosen
    assert not chosen & names(data.root / "validation.json")
    with pytest.raises(FileNotFoundError, match="few_50_1"):
        made(write_benchmark(data={**settings, **labeled}), tmp_path / "other")
    # A draw that was added has images on which rates were chosen.
    shutil.copy(root / "annotations" / "train.json", given.with_name("few_50_1.json"))
    with pytest.raises(ValueError, match=r"4 of the 4 validation images.* are in one of the draws"):
        made(write_benchmark(data={**settings, **labeled}), tmp_path / "out")


def test_too_few_images_for_validation_and_no_data_set(write_benchmark, tmp_path):
    data = {**DATA, "validation_images": 21}
    with pytest.raises(ValueError, match=r"validation_images is 21, but only \d+ images"):
        made(write_benchmark(data=data), tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        made(write_benchmark(data={"root": "nowhere"}), tmp_path)


@pytest.mark.usefixtures("empty_catalogs")
def test_registered_names(write_benchmark, tmp_path):
    data = made(write_benchmark(), tmp_path)
    data.register()
    data.register()
    assert sorted(DatasetCatalog.list()) == [
        "few_label_tiny_labeled_50pct_draw0",
        "few_label_tiny_labeled_50pct_draw1",
        "few_label_tiny_test",
        "few_label_tiny_validation",
    ]
    assert len(DatasetCatalog.get("few_label_tiny_validation")) == 6
    assert len(MetadataCatalog.get("few_label_tiny_validation").thing_classes) > 0


def test_draws_take_their_share_of_each_class():
    images = [{"id": index, "file_name": f"{index}.png"} for index in range(50)]
    annotations = [
        {"image_id": index, "category_id": 1 if index < 30 else 2} for index in range(40)
    ]
    # One image has both; the more frequent one counts.
    annotations += [{"image_id": 0, "category_id": 2}] * 2
    coco = {"images": images, "annotations": annotations, "categories": []}
    for percent, expected in ((1, {1: 1, 2: 1}), (20, {1: 6, 2: 2}), (99, {1: 29, 2: 11})):
        drawn = draw_labeled(coco, percent, "0")
        ids = {image["id"] for image in drawn["images"]}
        counts = Counter(2 if i == 0 or i >= 30 else 1 for i in ids)
        assert counts == expected
        assert {one["image_id"] for one in drawn["annotations"]} == ids
    assert draw_labeled(coco, 20, "0") != draw_labeled(coco, 20, "1")
