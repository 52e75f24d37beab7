"""Weak and strong views of unlabelled images, and what must not come along with them."""

import random

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng

from detectron2_agssp.data import TeacherMapper, build_mapper, register_unlabeled
from detectron2_agssp.data.view_pairs import (
    CutOut,
    ScaledBy,
    ViewPairs,
    affine_of,
    unlabeled_records,
)
from detectron2_agssp.io.coco import read_coco, register_coco, write_coco
from detectron2_agssp.modeling.pseudo_labels import move_boxes

HEIGHT, WIDTH = 48, 72


@pytest.fixture
def folder(tmp_path):
    """Four images."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), pixels)
    return images


@pytest.fixture
def cfg(tiny_cfg, folder, empty_catalogs):
    tiny_cfg.AGSSP.MAPPER = "TeacherMapper"
    tiny_cfg.AGSSP.TEACHER.UNLABELED = (str(folder),)
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (40, 56)
    tiny_cfg.DATASETS.TEST = ()
    return tiny_cfg


def labelled(folder) -> dict:
    box = {"bbox": [4, 8, 20, 16], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
    return {
        "file_name": str(folder / "0.png"),
        "image_id": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [box],
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_box_of_the_weak_view_is_on_the_same_pixels_of_the_strong_one(tmp_path, seed):
    """A white rectangle on black, found in both views by its pixels, whatever the geometry."""
    rng = np.random.default_rng(seed)
    random.seed(seed)
    height, width = rng.integers(60, 120, 2)
    x, y = rng.integers(5, [width // 2, height // 2])
    w, h = rng.integers(15, [width // 2 - 5, height // 2 - 5])
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    cv2.imwrite(str(tmp_path / "image.png"), pixels)
    weak = [T.ResizeShortestEdge((70, 110), 300, "range"), T.RandomFlip()]
    strong = [
        T.ResizeShortestEdge((70, 110), 300, "range"),
        T.RandomFlip(),
        T.RandomFlip(horizontal=False, vertical=True),
        ScaledBy((0.6, 1.6)),
        *([T.RandomCrop("relative_range", (0.6, 0.6))] if seed % 2 else []),
    ]
    record = {"file_name": str(tmp_path / "image.png")}
    pairs = ViewPairs([record], weak=weak, strong=strong)
    for _ in range(5):
        (pair,) = pairs()
        boxes = []
        for image in (pair["weak_image"], pair["image"]):
            rows, columns = (image[0] > 127).nonzero().unbind(1)
            if len(rows) == 0:
                boxes.append(None)
                continue
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes.append(torch.tensor([[float(corner) for corner in corners]]))
        size = tuple(pair["image"].shape[1:])
        moved, visible = move_boxes(boxes[0], pair["weak_to_strong"], size)
        if boxes[1] is None:
            assert visible.item() < 0.2
        else:
            # Interpolation moves an edge by a pixel of the coarser view at most.
            torch.testing.assert_close(moved, boxes[1], rtol=0, atol=2.5)


def test_rotations_are_affine_too():
    transform = T.RandomRotation([30, 30], expand=False).get_transform(np.zeros((40, 60, 3)))
    points = np.random.default_rng(0).uniform(0, 40, (20, 2))
    matrix = affine_of(transform)
    np.testing.assert_allclose(
        transform.apply_coords(points.copy()), points @ matrix[:2, :2].T + matrix[:2, 2], atol=1e-4
    )


def test_views_differ_and_a_run_repeats_them(cfg, folder):
    torch.manual_seed(5)
    first, again = TeacherMapper(cfg, True), TeacherMapper(cfg, True)
    one, two = first.pairs(), again.pairs()
    assert torch.equal(one[0]["image"], two[0]["image"])
    assert one[0]["file_name"] == two[0]["file_name"]
    names = {first.pairs()[0]["file_name"] for _ in range(40)}
    assert len(names) == 4
    assert one[0]["weak_image"].shape[0] == one[0]["image"].shape[0] == 3
    assert one[0]["image"].dtype == torch.uint8


def test_labelled_images_are_augmented_as_without(cfg, folder):
    """Whatever is drawn for unlabelled ones."""
    entry = labelled(folder)
    plain_cfg = cfg.clone()
    plain_cfg.AGSSP.MAPPER = "DetectionMapper"
    seen = []
    for own in (cfg, plain_cfg):
        mapper = build_mapper(own)
        seed_all_rng(3)
        inputs = [mapper(entry) for _ in range(6)]
        rest = np.random.uniform(), random.random(), torch.rand(1).item()  # noqa: NPY002
        seen.append(([one["image"] for one in inputs], rest, inputs))
    assert all(torch.equal(a, b) for a, b in zip(seen[0][0], seen[1][0], strict=True))
    assert seen[0][1] == seen[1][1]
    assert all("unlabeled" in one for one in seen[0][2])
    assert not any("unlabeled" in one for one in seen[1][2])


def test_as_many_as_asked_for_in_training_and_none_in_testing(cfg, folder):
    cfg.AGSSP.TEACHER.RATIO = 3
    assert len(build_mapper(cfg)(labelled(folder))["unlabeled"]) == 3
    assert "unlabeled" not in build_mapper(cfg, is_train=False)(labelled(folder))


class _Poison:
    """Labels that may be neither read nor copied."""

    def __getattr__(self, name):
        raise AssertionError("labels of an unlabelled image were touched")

    def __deepcopy__(self, memo):
        raise AssertionError("labels of an unlabelled image were copied")


def test_labels_of_unlabelled_images_cannot_leak(cfg, folder):
    records = [
        {**labelled(path.parent), "file_name": str(path), "annotations": _Poison()}
        for path in sorted(folder.iterdir())
    ]
    DatasetCatalog.register("poisoned", lambda: records)
    cfg.AGSSP.TEACHER.UNLABELED = ("poisoned",)
    mapper = build_mapper(cfg)
    for _ in range(10):
        for pair in mapper(labelled(folder))["unlabeled"]:
            assert set(pair) == {"file_name", "weak_image", "image", "weak_to_strong"}
    assert all("annotations" not in record for record in unlabeled_records("poisoned"))


def test_maps_move_with_the_weak_view(cfg, folder, tmp_path, write_maps):
    left = np.zeros((12, 18), np.float32)
    left[2:8, 1:7] = 0.9
    maps = write_maps(tmp_path / "maps", {"1.png": left}, {"1.png": (HEIGHT, WIDTH)})
    register_unlabeled("with_maps", folder, maps)
    cfg.AGSSP.TEACHER.UNLABELED = ("with_maps",)
    assert "anomaly_map" not in build_mapper(cfg).pairs()[0]
    cfg.AGSSP.TEACHER.GUIDANCE = 0.5
    mapper = build_mapper(cfg)
    flipped = set()
    for _ in range(12):
        (pair,) = mapper.pairs()
        shape = pair["weak_image"].shape[1:]
        assert pair["anomaly_map"].shape == (1, *shape)
        (box,) = pair["anomaly_boxes"].tolist()
        inside = pair["anomaly_map"][0, int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
        assert inside.max() == pytest.approx(0.9, abs=0.01)
        is_right = (box[0] + box[2]) / 2 > shape[1] / 2
        flipped.add(is_right)
    assert flipped == {False, True}


@pytest.fixture
def withheld(folder, tmp_path):
    """A COCO data set of the second image, by a link, and of another."""
    links = tmp_path / "links"
    links.mkdir()
    (links / "known.png").symlink_to(folder / "1.png")
    box = {"bbox": [4, 8, 20, 16], "area": 320, "iscrowd": 0, "category_id": 9}
    crowd = {**box, "iscrowd": 1, "id": 2, "image_id": 1}
    coco = {
        "images": [
            {"id": 1, "file_name": "known.png", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": "elsewhere.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [{**box, "id": 1, "image_id": 1}, crowd],
        "categories": [{"id": 5, "name": "pit"}, {"id": 9, "name": "scratch"}],
    }
    write_coco(tmp_path / "known.json", coco)
    register_coco("known", tmp_path / "known.json", links)


def test_withheld_labels_move_with_the_weak_view(cfg, folder, withheld, tmp_path):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[8:24, 4:24] = 255
    cv2.imwrite(str(folder / "1.png"), pixels)
    cfg.AGSSP.TEACHER.WITHHELD = ("known",)
    mapper = build_mapper(cfg)
    known = [pair for _ in range(30) for pair in mapper.pairs() if "withheld" in pair]
    assert {pair["file_name"] for pair in known} == {str(folder / "1.png")}
    flipped = set()
    for pair in known:
        labels = pair["withheld"]
        rows, columns = (pair["weak_image"][0] > 127).nonzero().unbind(1)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        torch.testing.assert_close(
            labels.gt_boxes.tensor, torch.tensor([seen], dtype=torch.float32), rtol=0, atol=1.5
        )
        assert labels.gt_classes.tolist() == [1]
        assert labels.image_size == tuple(pair["weak_image"].shape[1:])
        flipped.add(bool(columns.float().mean() > pair["weak_image"].shape[2] / 2))
    assert flipped == {False, True}


def test_withheld_labels_change_no_view(cfg, folder, withheld):
    torch.manual_seed(5)
    plain = build_mapper(cfg)
    cfg.AGSSP.TEACHER.WITHHELD = ("known",)
    judged = build_mapper(cfg)
    for _ in range(8):
        (one,), (other,) = plain.pairs(), judged.pairs()
        assert one["file_name"] == other["file_name"]
        assert all(torch.equal(one[key], other[key]) for key in ("weak_image", "image"))


def test_withheld_labels_of_other_images_or_classes(cfg, folder, withheld, tmp_path):
    cfg.AGSSP.TEACHER.WITHHELD = ("knowns",)
    with pytest.raises(ValueError, match=r"AGSSP\.TEACHER\.WITHHELD: there is no data set knowns"):
        build_mapper(cfg)
    cfg.AGSSP.TEACHER.WITHHELD = ("known",)
    (folder / "1.png").unlink()
    with pytest.raises(ValueError, match="known has labels of none of the images of"):
        build_mapper(cfg)
    coco = read_coco(tmp_path / "known.json")
    del coco["categories"][0]
    write_coco(tmp_path / "others.json", coco)
    register_coco("others", tmp_path / "others.json", folder)
    cfg.DATASETS.TRAIN = ("others",)
    with pytest.raises(ValueError, match=r"known has the categories .* but others"):
        build_mapper(cfg)


def test_images_that_are_tested_on_are_left_out(cfg, folder, caplog):
    DatasetCatalog.register("tested", lambda: [{"file_name": str(folder / "2.png")}])
    cfg.DATASETS.TEST = ("tested",)
    names = {record["file_name"] for record in build_mapper(cfg).pairs.records}
    assert names == {str(folder / f"{number}.png") for number in (0, 1, 3)}
    assert "1 of 4 unlabelled images are nearly one of tested and are left out" in caplog.text
    cfg.AGSSP.TEACHER.NEAR_DUPLICATES = 0.0
    assert len(build_mapper(cfg).pairs.records) == 4


def test_cut_out_keeps_to_its_area():
    image = np.full((100, 80, 3), 7, np.uint8)
    seed_all_rng(1)
    areas = []
    for _ in range(40):
        changed = CutOut(0.1).get_transform(image).apply_image(image)
        areas.append((changed != 7).any(axis=2).mean())
    assert 0 < max(areas) <= 0.1
    assert (image == 7).all()
    assert (CutOut(0.0).get_transform(image).apply_image(image) == 7).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("UNLABELED", (), "names no unlabelled images"),
        ("UNLABELED", ("agssp_nothing",), "AGSSP.TEACHER.UNLABELED: there is no data set agssp_no"),
        ("RATIO", 0, "RATIO must be at least 1, got 0"),
        ("SCALE", (1.5, 0.5), "SCALE must be"),
        ("CUT_OUT", 1.0, "CUT_OUT must be"),
    ],
)
def test_what_cannot_be_is_refused(cfg, key, value, message):
    cfg.AGSSP.TEACHER[key] = value
    with pytest.raises(ValueError, match=message):
        build_mapper(cfg)


def test_an_empty_folder_is_named(cfg, tmp_path):
    (tmp_path / "empty").mkdir()
    cfg.AGSSP.TEACHER.UNLABELED = (str(tmp_path / "empty"),)
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        build_mapper(cfg)


def test_all_of_them_tested_on(cfg, folder):
    DatasetCatalog.register(
        "tested", lambda: [{"file_name": str(path)} for path in folder.iterdir()]
    )
    cfg.DATASETS.TEST = ("tested",)
    with pytest.raises(ValueError, match="UNLABELED has no image"):
        build_mapper(cfg)
