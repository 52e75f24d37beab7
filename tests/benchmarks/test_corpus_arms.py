"""The benchmark of pretraining sets: its choice of images, and its figures of ranks and boxes."""

import types

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from benchmarks.corpus import detectors
from benchmarks.corpus.arms import ARMS, LABELLED, chosen_images, link_images
from benchmarks.corpus.joined_sets import joined
from benchmarks.corpus.measuring import effective_ranks
from detectron2_agssp.io.coco import coco_problems, write_coco
from tests.conftest import make_surface

CORPUS = {"a": 40, "b": 30, "c": 11, "d": 5}


@pytest.fixture
def corpus():
    return {name: [f"{name}/{n}.png" for n in range(count)] for name, count in CORPUS.items()}


def test_arms_of_equal_counts_have_them(corpus):
    labelled = [f"train/{n}.png" for n in range(50)]
    for draw in range(3):
        for name, arm in ARMS.items():
            images = chosen_images(arm, corpus, labelled, draw)
            assert all(len(set(own)) == len(own) for own in images.values())
            if arm.equal:
                assert sum(map(len, images.values())) == 20, name
    sources = {name: list(chosen_images(ARMS[name], corpus, labelled, 1)) for name in ARMS}
    assert sources["neu_det"] == sources["equal_neu_det"] == [LABELLED]
    assert sources["equal_1"] == ["b"]  # the second of those with 20 images
    assert sources["equal_4"] == sources["equal_all"] == sources["corpus_p0"] == list("abcd")


def test_links_are_by_source(tmp_path):
    (tmp_path / "corpus/a").mkdir(parents=True)
    (tmp_path / "corpus/a/1.png").write_bytes(b"one")
    folder = link_images(tmp_path / "out", {"corpus": tmp_path / "corpus"}, {"a": ["a/1.png"]})
    assert (folder / "a/1.png").read_bytes() == b"one"
    assert (folder / "a/1.png").is_symlink()


def test_effective_rank_counts_directions(tmp_path):
    """Cells along one direction, and along three of equal strength."""
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(make_surface(64, 64)).save(path)
    random = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    white = torch.linalg.inv(torch.linalg.cholesky(torch.cov(random))) @ random
    levels = {"res4": white[:1].repeat(6, 1), "res5": torch.cat([white, white])}
    model = types.SimpleNamespace(
        in_features=("res4", "res5"),
        preprocess_image=lambda inputs: types.SimpleNamespace(tensor=None),
        backbone=lambda tensor: {
            name: cells.reshape(1, 6, 50, 100) for name, cells in levels.items()
        },
    )
    ranks = effective_ranks(get_cfg(), model, [path])
    assert ranks == pytest.approx({"res4": 1.0, "res5": 3.0}, abs=0.01)


def test_joined_labels_keep_their_images_and_classes():
    def one(count, name):
        return {
            "images": [
                {"id": n + 7, "file_name": f"x/{n}.png", "height": 9, "width": 9}
                for n in range(count)
            ],
            "annotations": [{"id": 3, "image_id": 7, "category_id": 4, "bbox": [1, 1, 2, 2]}],
            "categories": [{"id": 4, "name": name}],
        }

    whole = joined({"a": one(2, "dent"), "b": one(1, "dent")})
    assert coco_problems(whole) == []
    assert [image["file_name"] for image in whole["images"]] == ["a/0.png", "a/1.png", "b/0.png"]
    assert [entry["image_id"] for entry in whole["annotations"]] == [1, 3]
    assert [entry["name"] for entry in whole["categories"]] == ["a/dent", "b/dent"]
    assert [entry["category_id"] for entry in whole["annotations"]] == [1, 2]


def test_detections_are_judged_whatever_their_class(tmp_path, monkeypatch):
    """Of two boxes of two classes one is found, by the better of two detections of one class."""
    size = {"height": 60, "width": 100}
    sides = [[10, 10, 20, 30], [50, 5, 40, 20]]
    labels = {
        "images": [
            {"id": 7, "file_name": "a.png", **size},
            {"id": 9, "file_name": "b.png", **size},
        ],
        "categories": [{"id": 3, "name": "pit"}, {"id": 4, "name": "scratch"}],
        "annotations": [
            {"id": n + 1, "image_id": 7, "category_id": 3 + n, "bbox": box, "iscrowd": 0}
            | {"area": box[2] * box[3]}
            for n, box in enumerate(sides)
        ],
    }
    write_coco(tmp_path / "labels.json", labels)

    def found(boxes, scores):
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return {"boxes": corners, "scores": np.array(scores), "classes": np.zeros(len(scores))}

    results = {"a.png": found([sides[1], [0, 0, 5, 5]], [0.9, 0.4]), "b.png": found([], [])}
    monkeypatch.setattr(detectors, "predict", lambda *args, **kwargs: results)
    figures = detectors.judge_detections(tmp_path, tmp_path, tmp_path / "labels.json")
    assert figures["ar10"] == 0.5
    assert figures["ap50"] == pytest.approx(51 / 101)  # of 101 recalls those up to a half

    results["a.png"] = found([], [])
    assert detectors.judge_detections(tmp_path, tmp_path, tmp_path / "labels.json") == {
        "ap50": 0.0,
        "ar10": 0.0,
    }
