"""A map folder against masks, by class."""

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.evaluation import anomaly_metrics
from detectron2_agssp.evaluation.map_folder import (
    METRIC_NAMES,
    evaluate_map_folder,
    format_table,
)


def half(height, width, columns):
    """Defect in the first ``columns``."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, :columns] = 255
    return mask


@pytest.fixture
def folders(write_maps, tmp_path):
    """Class "hit" is found exactly, "miss" is reversed; an image of each class has no mask."""
    good, bad = half(8, 16, 4) / 255, half(8, 16, 12) / 255
    maps = {"hit/1.jpg": good, "hit/2.bmp": good, "hit/none.jpg": bad, "miss/1.png": 1 - good}
    masks = tmp_path / "masks"
    for name in ("hit/1.png", "hit/2.tif", "miss/1.bmp"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(half(64, 128, 32)).save(masks / name)
    sizes = dict.fromkeys(maps, (64, 128))
    return write_maps(tmp_path / "maps", {**maps, "other/x.png": good}, sizes), masks


@pytest.mark.parametrize("size", [0, 32])
def test_by_class(folders, size):
    table = evaluate_map_folder(*folders, size=size)
    assert list(table) == ["hit", "miss", "mean"]
    assert [row["images"] for row in table.values()] == [2, 1, 3]
    assert table["hit"]["auroc"] == pytest.approx(1, abs=0.02)
    assert table["miss"]["auroc"] == pytest.approx(0, abs=0.02)
    for name in METRIC_NAMES:
        expected = (table["hit"][name] + table["miss"][name]) / 2
        assert table["mean"][name] == pytest.approx(expected)


def test_maps_are_resized_bilinearly_to_the_image(write_maps, tmp_path):
    maps = write_maps(tmp_path / "maps", {"c/a.png": np.array([[1.0, 0.0]])}, {"c/a.png": (2, 8)})
    (tmp_path / "masks/c").mkdir(parents=True)
    Image.fromarray(half(2, 8, 3)).save(tmp_path / "masks/c/a.png")
    row = np.array([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0], np.float32)
    expected = anomaly_metrics([np.stack([row, row])], [half(2, 8, 3)])
    found = evaluate_map_folder(maps, tmp_path / "masks", size=0)["c"]
    assert found == pytest.approx({**expected, "images": 1})


def test_threshold_of_masks_with_soft_edges(folders):
    maps, masks = folders
    for path in masks.rglob("*.*"):
        soft = half(64, 128, 32)
        soft[:, 32:64] = np.arange(120, 88, -1)
        Image.fromarray(soft).save(path)
    assert evaluate_map_folder(maps, masks)["hit"]["auroc"] == pytest.approx(1, abs=0.02)
    assert evaluate_map_folder(maps, masks, threshold=60)["hit"]["auroc"] < 0.8


def test_table_as_text(folders):
    lines = format_table(evaluate_map_folder(*folders)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["hit", "miss", "mean"]


def test_folders_of_many_maps(write_maps, tmp_path):
    """By class, at the images' own sizes, against all pixels at once."""
    rng = np.random.default_rng(0)
    maps, sizes, exact = {}, {}, {}
    for number in range(12):
        name, (height, width) = f"{'ab'[number % 2]}/{number}", rng.integers(20, 60, 2)
        mask = rng.random((height, width)) < 0.1
        maps[f"{name}.jpg"] = rng.random((7, 9)).astype(np.float16)
        sizes[f"{name}.jpg"] = (int(height), int(width))
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
        full = resize_map(maps[f"{name}.jpg"], height, width)
        exact.setdefault(name[0], []).append((full.clip(0, 1), mask))
    root = write_maps(tmp_path / "maps", maps, sizes)
    table = evaluate_map_folder(root, tmp_path / "masks", size=0)
    for source, pairs in exact.items():
        expected = anomaly_metrics(*zip(*pairs, strict=True))
        assert table[source] == pytest.approx({**expected, "images": 6}, abs=5e-4)


def test_class_without_a_defect_is_named(folders):
    Image.fromarray(half(64, 128, 0)).save(folders[1] / "miss/1.bmp")
    with pytest.raises(ValueError, match=r"'miss', 1 masks .*above 127.*0 defect.*threshold"):
        evaluate_map_folder(*folders)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ("absent", FileNotFoundError, r"Mask folder .*absent' does not exist"),
        ("maps", ValueError, r"None of the images.*scratches/1\.jpg -> scratches/1\.png"),
    ],
)
def test_no_masks(folders, masks, error, message):
    with pytest.raises(error, match=message):
        evaluate_map_folder(folders[0], folders[0].parent / masks)


def test_bad_size(folders):
    with pytest.raises(ValueError, match="got -3"):
        evaluate_map_folder(*folders, size=-3)
