"""The benchmark of pretraining sets: its choice of images, and its figure of a feature's rank."""

import types

import pytest
import torch
from detectron2.config import get_cfg

from benchmarks.corpus.arms import ARMS, LABELLED, chosen_images, link_images
from benchmarks.corpus.joined_sets import joined
from benchmarks.corpus.measuring import effective_ranks
from detectron2_agssp.io.coco import coco_problems
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
