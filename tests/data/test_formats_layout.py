"""Preparing data sets: the splits, and the files that are linked, copied, written and removed."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from detectron2_agssp.io.files import write_json
from tests.data.prepare_sources import (
    files_below,
    load,
    make_neu_source,
    make_tile_source,
    make_two_images,
    prepare_magnetic_tile,
    prepare_neu_det,
    write_image,
    write_splits,
)


@pytest.fixture
def two_images(tmp_path):
    return make_two_images(tmp_path)


@pytest.fixture
def neu_source(tmp_path):
    return make_neu_source(tmp_path)


@pytest.fixture
def tile_source(tmp_path):
    return make_tile_source(tmp_path)


class TestSplits:
    def test_drawn_by_class_and_nested(self, neu_source, tmp_path):
        prepare_neu_det(neu_source, tmp_path / "out")
        splits = load(tmp_path / "out/splits.json")
        by_class = {
            name: Counter(stem.rsplit("_", 1)[0] for stem in stems)
            for name, stems in splits.items()
        }
        assert by_class["train"] == {"crazing": 14, "rolled-in_scale": 14}
        assert by_class["test"] == {"crazing": 6, "rolled-in_scale": 6}
        assert by_class["train_25pct_draw2"] == {"crazing": 4, "rolled-in_scale": 4}
        assert by_class["train_1pct_draw0"] == {"crazing": 1, "rolled-in_scale": 1}
        assert len(splits) == 2 + 4 * 3
        assert not set(splits["train"]) & set(splits["test"])
        for draw in range(3):
            small, large = (splits[f"train_{percent}pct_draw{draw}"] for percent in (10, 25))
            assert set(small) < set(large) < set(splits["train"])
        assert splits["train_25pct_draw0"] != splits["train_25pct_draw1"]

    def test_drawn_the_same_again_and_usable_as_input(self, neu_source, tmp_path):
        prepare_neu_det(neu_source, tmp_path / "a")
        prepare_neu_det(neu_source, tmp_path / "b")
        prepare_neu_det(neu_source, tmp_path / "c", splits=tmp_path / "a/splits.json")
        for other in ("b", "c"):
            assert load(tmp_path / "a/splits.json") == load(tmp_path / other / "splits.json")

    def test_drawn_images_that_are_the_same_stay_together(self, neu_source, tmp_path):
        for number in range(20):  # crazing 0, 1 and 2, 3 and so on get the same pixels
            write_image(neu_source / "IMAGES" / f"crazing_{number}.jpg", number // 2)
        report = prepare_neu_det(neu_source, tmp_path / "out")
        assert not report.problems["duplicate_across_splits"]
        assert len(report.problems["duplicate_within_split"]) == 10

    def test_few_label_draws_hold_no_defect_free_image(self, tile_source, tmp_path):
        (tile_source / "splits.json").unlink()
        prepare_magnetic_tile(tile_source, tmp_path / "out")
        splits = load(tmp_path / "out/splits.json")
        assert any("MT_Free" in stem for stem in splits["train"])
        assert all("MT_Crack" in stem for stem in splits["train_25pct_draw0"])

    def test_duplicates_across_given_splits_are_reported(self, two_images, tmp_path):
        for name in ("patches_1", "patches_2"):
            write_image(two_images / "images" / f"{name}.jpg", "same")
        report = prepare_neu_det(two_images, tmp_path / "out")
        assert report.problems["duplicate_across_splits"] == [
            "patches_1 (train) = patches_2 (test)"
        ]

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            ({"train": ["patches_1"], "test": ["patches_1"]}, "both in train and in test"),
            (
                {
                    "train": ["patches_1"],
                    "test": ["patches_2"],
                    "train_5pct_draw0": ["patches_2"],
                },
                "train_5pct_draw0 holds 1 stems that are not in train, such as 'patches_2'",
            ),
            ({"train": ["x.jpg"], "test": ["patches_2"]}, "train is empty: none of its 1 stems"),
            ({"train": ["patches_1"]}, "needs the keys 'train' and 'test'"),
            ({"train": "patches_1", "test": ["patches_2"]}, "'train' is not a list"),
        ],
    )
    def test_unusable_splits_are_refused(self, two_images, tmp_path, splits, message):
        write_splits(two_images / "splits.json", **splits)
        with pytest.raises(ValueError, match=message):
            prepare_neu_det(two_images, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_splits_file_missing_or_not_json(self, two_images, tmp_path):
        path = tmp_path / "s.json"
        with pytest.raises(FileNotFoundError, match=r"s\.json"):
            prepare_neu_det(two_images, tmp_path / "out", splits=path)
        path.write_text("train: []")
        with pytest.raises(ValueError, match=r"s\.json is not json"):
            prepare_neu_det(two_images, tmp_path / "out", splits=path)


class TestLayout:
    def test_links_or_copies(self, two_images, tmp_path):
        source = two_images / "images/patches_1.jpg"
        place = Path("images/train/patches_1.jpg")
        prepare_neu_det(two_images, tmp_path / "linked")
        assert (tmp_path / "linked" / place).readlink() == source
        prepare_neu_det(two_images, tmp_path / "copied", copy=True)
        assert not (tmp_path / "copied" / place).is_symlink()
        assert (tmp_path / "copied" / place).read_bytes() == source.read_bytes()
        prepare_neu_det(two_images, tmp_path / "linked", copy=True)
        assert not (tmp_path / "linked" / place).is_symlink()

    def test_copies_where_links_are_refused(self, two_images, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError("no links here")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        prepare_neu_det(two_images, tmp_path / "out")
        placed = tmp_path / "out/images/train/patches_1.jpg"
        assert placed.read_bytes() == (two_images / "images/patches_1.jpg").read_bytes()

    @pytest.mark.parametrize("copy", [False, True])
    def test_a_second_run_leaves_what_is_right(self, two_images, tmp_path, copy):
        placed = tmp_path / "out/images/train/patches_1.jpg"
        prepare_neu_det(two_images, tmp_path / "out", copy=copy)
        before = placed.lstat().st_ino
        prepare_neu_det(two_images, tmp_path / "out", copy=copy)
        assert placed.lstat().st_ino == before
        if copy:
            placed.write_bytes(b"half")
            prepare_neu_det(two_images, tmp_path / "out", copy=copy)
            assert placed.read_bytes() == (two_images / "images/patches_1.jpg").read_bytes()

    def test_other_splits_leave_no_test_image_in_train(self, tile_source, tmp_path):
        out = tmp_path / "out"
        stems = load(tile_source / "splits.json")
        write_splits(tile_source / "splits.json", **stems, train_5pct_draw0=stems["train"][:1])
        prepare_magnetic_tile(tile_source, out)
        (out / "images/train/mine.jpg").write_bytes(b"unlabelled")
        (out / "annotations/mine.json").write_text("{}")
        write_splits(tile_source / "splits.json", train=stems["test"], test=stems["train"])
        prepare_magnetic_tile(tile_source, out)
        assert files_below(out / "images") == {
            "train/mine.jpg",
            "train/MT_Crack/b.jpg",
            "train/MT_Free/b.jpg",
            "test/MT_Crack/a.jpg",
            "test/MT_Free/a.jpg",
        }
        assert files_below(out / "masks") == {"train/MT_Crack/b.png", "test/MT_Crack/a.png"}
        assert files_below(out / "annotations") == {"train.json", "test.json", "mine.json"}

    @pytest.mark.parametrize(
        "entries",
        [
            ["../precious.txt"],
            ["images/train/../../../precious.txt"],
            ["{outside}/precious.txt"],
            ["images/train/outside/precious.txt"],
            ["mine.txt"],
            ["images/train"],
            [7],
            {"images/train/patches_1.jpg": 1, "../precious.txt": 2},
            5,
        ],
    )
    def test_only_what_a_run_made_is_removed(self, two_images, tmp_path, entries):
        """Whatever the list says: it comes along with a folder of another person's."""
        out = tmp_path / "out"
        prepare_neu_det(two_images, out)
        (tmp_path / "precious.txt").touch()
        (out / "mine.txt").touch()
        (out / "images/train/outside").symlink_to(tmp_path)
        before = files_below(tmp_path)
        text = json.dumps(entries).replace("{outside}", str(tmp_path))
        (out / ".prepared.json").write_text(text)
        with pytest.raises(ValueError, match=r"\.prepared\.json is not the list .*Nothing was"):
            prepare_neu_det(two_images, out)
        assert files_below(tmp_path) == before

    def test_an_interrupted_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        write_json(tmp_path / "a.json", [1])

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_json(tmp_path / "a.json", [2])
        assert load(tmp_path / "a.json") == [1]
        assert files_below(tmp_path) == {"a.json"}

    def test_default_output(self, two_images, tmp_path, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "all"))
        prepare_neu_det(two_images)
        assert (tmp_path / "all/neu_det/annotations/train.json").is_file()
