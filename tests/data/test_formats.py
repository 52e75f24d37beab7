"""Preparing NEU-DET and Magnetic-Tile: boxes, bad data, errors, command lines, the real data."""

import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from detectron2_agssp.io.images import read_image
from tests.data.prepare_sources import (
    HEIGHT,
    WIDTH,
    boxes,
    files_below,
    load,
    make_neu_source,
    make_tile_source,
    make_two_images,
    prepare_magnetic_tile,
    prepare_neu_det,
    write_image,
    write_mask,
    write_splits,
    write_xml,
)

REPO = Path(__file__).parents[2]


@pytest.fixture
def two_images(tmp_path):
    return make_two_images(tmp_path)


@pytest.fixture
def neu_source(tmp_path):
    return make_neu_source(tmp_path)


@pytest.fixture
def tile_source(tmp_path):
    return make_tile_source(tmp_path)


class TestNeuDetBoxes:
    @pytest.mark.parametrize(
        ("corners", "expected", "problem"),
        [
            ((1, 1, 20, 16), [0, 0, 20, 16], None),  # 1-based and inclusive: the whole image
            ((3, 4, 12, 9), [2, 3, 10, 6], None),
            ((5, 6, 5, 6), [4, 5, 1, 1], None),  # one pixel
            ((0, 4, 12, 9), [0, 3, 12, 6], "box_clipped"),
            ((15, 4, 30, 90), [14, 3, 6, 13], "box_clipped"),
            ((25, 4, 30, 9), None, "box_dropped"),
            ((12, 4, 3, 9), None, "box_dropped"),
            (("", 4, 12, 9), None, "box_dropped"),
            (("nan", 4, 12, 9), None, "box_dropped"),
        ],
    )
    def test_corners_become_pixels(self, two_images, tmp_path, corners, expected, problem):
        write_xml(two_images / "annotations" / "patches_1.xml", ("patches", *corners))
        report = prepare_neu_det(two_images, tmp_path / "out")
        found = boxes(tmp_path / "out/annotations/train.json")["train/patches_1.jpg"]
        assert found == ([("patches", expected)] if expected else [])
        for kind in ("box_clipped", "box_dropped"):
            assert len(report.problems[kind]) == (kind == problem)

    def test_categories_are_sorted_and_the_same_everywhere(self, two_images, tmp_path):
        prepare_neu_det(two_images, tmp_path / "out")
        for split in ("train", "test"):
            categories = load(tmp_path / f"out/annotations/{split}.json")["categories"]
            assert [entry["id"] for entry in categories] == [1, 2, 3, 4, 5, 6]
            names = [entry["name"] for entry in categories]
            assert names == sorted(names)
            assert names[4] == "rolled-in_scale"

    def test_authors_and_kaggle_folders_give_the_same(self, neu_source, tmp_path):
        kaggle = tmp_path / "kaggle"
        for number, image in enumerate(sorted((neu_source / "IMAGES").iterdir())):
            part = kaggle / ("validation" if number % 5 == 0 else "train")
            name = image.stem.rsplit("_", 1)[0]
            (part / "images" / name).mkdir(parents=True, exist_ok=True)
            (part / "images" / name / image.name).write_bytes(image.read_bytes())
            xml = neu_source / "ANNOTATIONS" / f"{image.stem}.xml"
            (part / "annotations").mkdir(exist_ok=True)
            (part / "annotations" / xml.name).write_bytes(xml.read_bytes())
        (kaggle / "__MACOSX").mkdir()
        (kaggle / "__MACOSX" / "._crazing_0.jpg").write_bytes(b"junk")
        prepare_neu_det(neu_source, tmp_path / "a")
        report = prepare_neu_det(kaggle, tmp_path / "b")
        for split in ("train", "test", "train_10pct_draw1"):
            path = f"annotations/{split}.json"
            assert load(tmp_path / "a" / path) == load(tmp_path / "b" / path)
        assert not any(report.problems.values())

    def test_bad_files_are_listed_and_the_rest_is_prepared(self, two_images, tmp_path):
        images, annotations = two_images / "images", two_images / "annotations"
        write_xml(
            annotations / "patches_1.xml",
            ("patches", 3, 4, 12, 9),
            ("rust", 3, 4, 12, 9),
            filename="patches_7.jpg",
            width=0,
            height=0,
        )
        write_image(images / "cropped.jpg", "cropped")
        write_xml(annotations / "cropped.xml", ("patches", 3, 4, 12, 9), width=200)
        write_image(images / "alone.jpg", 3)
        write_xml(annotations / "lonely.xml")
        for stem in ("cut", "broken", "unused", "empty"):
            write_image(images / f"{stem}.jpg", stem)
            write_xml(annotations / f"{stem}.xml", ("patches", 3, 4, 12, 9))
        (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-150])
        (annotations / "broken.xml").write_text("<annotation>")
        write_xml(annotations / "empty.xml")
        write_image(images / "more" / "unused.jpg", 5)
        train = ["patches_1", "cut", "broken", "cropped", "gone", "empty"]
        stems = {"train": train, "test": ["patches_2"]}
        write_splits(two_images / "splits.json", **stems, other=[])

        report = prepare_neu_det(two_images, tmp_path / "out")

        problems = {kind: cases for kind, cases in report.problems.items() if cases}
        assert problems.pop("image_without_annotation") == ["alone"]
        assert problems.pop("annotation_without_image") == ["lonely"]
        assert problems.pop("unreadable_image")[0].startswith("cut (")
        assert "broken (" in problems.pop("unreadable_annotation")[0]
        assert problems.pop("image_in_no_split") == ["unused"]
        assert problems.pop("split_stem_missing") == ["broken", "cropped", "cut", "gone"]
        assert problems.pop("defect_without_box") == ["empty"]
        assert "unused.jpg" in problems.pop("same_name_twice")[0]
        assert problems.pop("size_differs") == ["cropped (xml 200x16, image 20x16)"]
        assert problems.pop("size_missing") == ["patches_1 (xml 0x0, image 20x16)"]
        assert "patches_7.jpg" in problems.pop("filename_differs")[0]
        assert "'rust'" in problems.pop("unknown_class")[0]
        assert not problems
        assert any("'other'" in note for note in report.notes)
        assert boxes(tmp_path / "out/annotations/train.json") == {
            "train/empty.jpg": [],
            "train/patches_1.jpg": [("patches", [2, 3, 10, 6])],
        }
        assert report.splits["train"]["images_without_boxes"] == 1
        assert load(tmp_path / "out/report.json") == report.to_json()
        assert "1 images left out: they cannot be decoded: cut" in report.table()

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk", "latin-1"])
    def test_xml_in_any_encoding(self, two_images, tmp_path, encoding):
        path = two_images / "annotations/patches_1.xml"
        declared = "utf-8" if encoding == "utf-8-sig" else encoding
        text = f'<?xml version="1.0" encoding="{declared}"?>{path.read_text()}'
        path.write_text(text.replace("<annotation>", "<annotation><!-- ü -->"), encoding=encoding)
        report = prepare_neu_det(two_images, tmp_path / "out")
        assert not any(report.problems.values())
        (box,) = boxes(tmp_path / "out/annotations/train.json")["train/patches_1.jpg"]
        assert box == ("patches", [2.0, 3.0, 10.0, 6.0])

    def test_labels_that_are_none(self, two_images, tmp_path):
        annotations = two_images / "annotations"
        for stem in ("folder", "pipe", "unknown", "bytes"):
            write_image(two_images / f"images/{stem}.jpg", stem)
        (annotations / "folder.xml").mkdir()
        os.mkfifo(annotations / "pipe.xml")
        (annotations / "unknown.xml").write_text("<?xml version='1.0' encoding='klingon'?><a/>")
        (annotations / "bytes.xml").write_bytes(b"<a>\xff\xfe</a>")
        (two_images / "images/dir.jpg").mkdir()
        write_xml(annotations / "dir.xml")
        report = prepare_neu_det(two_images, tmp_path / "out")
        cases = report.problems["unreadable_annotation"]
        assert [case.split(" ")[0] for case in cases] == ["bytes", "pipe", "unknown"]
        assert "is a pipe" in cases[1]
        assert "its encoding is 'klingon'" in cases[2]
        assert report.problems["image_without_annotation"] == ["folder"]
        assert report.problems["annotation_without_image"] == ["dir"]

    @pytest.mark.parametrize("orientation", [2, 5, 6, 7, 8])
    @pytest.mark.parametrize("labelled", ["upright", "stored"])
    def test_boxes_of_a_turned_photo(self, two_images, tmp_path, orientation, labelled):
        """Labelled as it is seen, or on the pixels as they are stored: the boxes are where the
        defect is in what training reads."""
        stored = np.zeros((HEIGHT, WIDTH), np.uint8)
        stored[3:9, 2:12] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = two_images / "images/patches_1.jpg"
        Image.fromarray(stored).save(path, exif=exif, quality=100)
        pixels = read_image(path)[:, :, 0] > 127
        (top, *_, bottom), (left, *_, right) = (
            np.nonzero(pixels.any(1))[0],
            np.nonzero(pixels.any(0))[0],
        )
        seen, size = (left + 1, top + 1, right + 1, bottom + 1), pixels.shape
        is_stored = labelled == "stored" and orientation > 4
        write_xml(
            two_images / "annotations/patches_1.xml",
            ("patches", *((3, 4, 12, 9) if is_stored else seen)),
            height=HEIGHT if is_stored else size[0],
            width=WIDTH if is_stored else size[1],
        )
        report = prepare_neu_det(two_images, tmp_path / "out")
        problems = {kind: cases for kind, cases in report.problems.items() if cases}
        turned = f"patches_1 (xml {WIDTH}x{HEIGHT}, image {HEIGHT}x{WIDTH})"
        assert problems == ({"boxes_turned": [turned]} if is_stored else {})
        (image,) = load(tmp_path / "out/annotations/train.json")["images"]
        assert (image["height"], image["width"]) == size
        (box,) = boxes(tmp_path / "out/annotations/train.json")["train/patches_1.jpg"]
        assert box == ("patches", [left, top, right - left + 1, bottom - top + 1])

    def test_a_size_that_is_swapped_without_exif(self, two_images, tmp_path):
        write_image(two_images / "images/other.jpg", "other")
        xml = two_images / "annotations/other.xml"
        write_xml(xml, ("patches", 3, 4, 12, 9), width=HEIGHT, height=WIDTH)
        report = prepare_neu_det(two_images, tmp_path / "out")
        assert report.problems["size_differs"] == ["other (xml 16x20, image 20x16)"]


class TestMagneticTile:
    def test_masks_of_class_codes_are_left_out(self, tile_source, tmp_path):
        write_mask(tile_source / "MT_Crack/Imgs/a.png", (2, 3, 5, 6), value=60)
        report = prepare_magnetic_tile(tile_source, tmp_path / "out")
        (case,) = report.problems["mask_values"]
        assert "MT_Crack/Imgs/a" in case
        assert "value 60" in case

    def test_layout_boxes_and_segmentation(self, tile_source, tmp_path):
        out = tmp_path / "out"
        report = prepare_magnetic_tile(tile_source, out)
        assert not any(report.problems.values())
        assert boxes(out / "annotations/train.json") == {
            "train/MT_Crack/a.jpg": [("Crack", [2, 3, 5, 6])],
            "train/MT_Free/a.jpg": [],
        }
        assert files_below(out / "images/train") == {"MT_Crack/a.jpg", "MT_Free/a.jpg"}
        assert files_below(out / "masks") == {"train/MT_Crack/a.png", "test/MT_Crack/b.png"}
        annotation = load(out / "annotations/train.json")["annotations"][0]
        mask = np.asarray(Image.open(tile_source / "MT_Crack/Imgs/a.png")) > 127
        assert np.array_equal(pycocotools.mask.decode(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum() == 30

    def test_components_join_over_corners_and_soft_edges_are_cut(self, tile_source, tmp_path):
        path = tile_source / "MT_Crack/Imgs/a.png"
        mask = write_mask(path, (2, 2, 4, 4), (6, 6, 4, 4), (14, 2, 4, 5))
        mask[2:7, 13] = 127  # not yet the defect
        mask[2:7, 18] = 128
        Image.fromarray(mask).save(path)
        prepare_magnetic_tile(tile_source, tmp_path / "out")
        found = boxes(tmp_path / "out/annotations/train.json")["train/MT_Crack/a.jpg"]
        assert sorted(found) == [("Crack", [2, 2, 8, 8]), ("Crack", [14, 2, 5, 5])]

    @pytest.mark.parametrize(("min_area", "kept"), [(1, 2), (9, 2), (10, 1), (16, 1), (31, 0)])
    def test_small_components_are_counted_not_boxed(self, tile_source, tmp_path, min_area, kept):
        path = tile_source / "MT_Crack/Imgs/a.png"
        write_mask(path, (2, 3, 5, 6), (12, 3, 3, 3))
        report = prepare_magnetic_tile(tile_source, tmp_path / "out", min_area=min_area)
        assert report.splits["train"]["boxes"]["Crack"] == kept
        small = [case for case in report.problems["small_component"] if "Crack/Imgs/a" in case]
        assert len(small) == 2 - kept
        assert ("MT_Crack/Imgs/a" in report.problems["defect_without_box"]) == (kept == 0)

    def test_bad_masks_are_listed(self, tile_source, tmp_path):
        Image.new("L", (WIDTH, HEIGHT - 1)).save(tile_source / "MT_Crack/Imgs/a.png")
        write_mask(tile_source / "MT_Free/Imgs/a.png", (1, 1, 9, 9))
        (tile_source / "MT_Free/Imgs/b.png").unlink()  # a defect-free image needs none
        for stem in ("MT_Rust/Imgs/x", "MT_Fray/Imgs/x"):
            write_image(tile_source / f"{stem}.jpg", stem)
        report = prepare_magnetic_tile(tile_source, tmp_path / "out")
        problems = {kind: cases for kind, cases in report.problems.items() if cases}
        assert problems == {
            "mask_size_differs": ["MT_Crack/Imgs/a (mask 20x15, image 20x16)"],
            "mask_on_defect_free": ["MT_Free/Imgs/a"],
            "unknown_class": ["MT_Rust"],
            "image_without_annotation": ["MT_Fray/Imgs/x"],
            "split_stem_missing": ["MT_Crack/Imgs/a"],
        }
        assert boxes(tmp_path / "out/annotations/train.json") == {"train/MT_Free/a.jpg": []}


class TestSourceErrors:
    @pytest.mark.parametrize("prepare", [prepare_neu_det, prepare_magnetic_tile])
    def test_missing_and_empty(self, tmp_path, prepare):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            prepare(tmp_path / "nowhere", tmp_path / "out")
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"0 images and 0 annotations; expected .*jpg"):
            prepare(tmp_path / "empty", tmp_path / "out")

    def test_no_image_has_an_annotation(self, two_images, tmp_path):
        for path in (two_images / "images").iterdir():
            path.rename(path.with_stem(f"x_{path.stem}"))
        with pytest.raises(ValueError, match=r"'x_patches_1'.*'patches_1'"):
            prepare_neu_det(two_images, tmp_path / "out")

    def test_nothing_can_be_read(self, two_images, tmp_path):
        for path in (two_images / "images").iterdir():
            path.write_bytes(b"no image")
        with pytest.raises(
            ValueError, match=r"no image in .*two can be used; 2 .*decoded: patches_1"
        ):
            prepare_neu_det(two_images, tmp_path / "out")

    @pytest.mark.parametrize("below", [".", "prepared"])
    def test_output_inside_the_source(self, two_images, below):
        with pytest.raises(ValueError, match="inside the source"):
            prepare_neu_det(two_images, two_images / below)


@pytest.mark.parametrize("dataset", ["neu_det", "magnetic_tile"])
class TestCommandLine:
    def run(self, monkeypatch, dataset, *arguments):
        script = REPO / "datasets" / f"prepare_{dataset}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")

    def test_prepares_and_reports(self, request, monkeypatch, tmp_path, capsys, dataset):
        fixture = {"neu_det": "two_images", "magnetic_tile": "tile_source"}[dataset]
        source = request.getfixturevalue(fixture)
        self.run(monkeypatch, dataset, source, "--output", tmp_path / "out", "--copy")
        printed = capsys.readouterr().out
        assert "no problems found" in printed
        assert re.search(r"^train +\d", printed, re.MULTILINE)
        (image, *_) = (tmp_path / "out/images/train").rglob("*.jpg")
        assert not image.is_symlink()

    def test_errors_take_one_line(self, monkeypatch, tmp_path, capsys, dataset):
        with pytest.raises(SystemExit, match="2"):
            self.run(monkeypatch, dataset, tmp_path / "nowhere")
        assert re.fullmatch(r"error: no source folder .*nowhere.*\n", capsys.readouterr().err)


def test_how_images_are_read(two_images, monkeypatch, tmp_path, capsys):
    """By the keys that the reader's error names."""
    for number, path in enumerate(sorted((two_images / "images").iterdir())):
        values = np.full((HEIGHT, WIDTH), number + 2, np.float32)
        Image.fromarray(values).save(path, "tiff")
    arguments = ["x", str(two_images), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    script = str(REPO / "datasets/prepare_neu_det.py")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(script, run_name="__main__")
    assert "Set AGSSP.INPUT.FLOAT_MAX" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*arguments, "AGSSP.INPUT.FLOAT_MAX", "3.0"])
    runpy.run_path(script, run_name="__main__")
    assert "no problems found" in capsys.readouterr().out


def test_min_area_option(tile_source, monkeypatch, tmp_path):
    arguments = ["x", str(tile_source), "--output", str(tmp_path / "out"), "--min-area", "31"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(REPO / "datasets/prepare_magnetic_tile.py"), run_name="__main__")
    assert boxes(tmp_path / "out/annotations/train.json")["train/MT_Crack/a.jpg"] == []


class TestRealData:
    """The figures of the published data with the splits that lie beside them."""

    @pytest.fixture
    def shared(self):
        folder = Path(os.getenv("AGSSP_SHARED_DATA", REPO.parent / "shared" / "data"))
        if not (folder / "neu_det").is_dir() or not (folder / "magnetic_tile").is_dir():
            pytest.skip(f"no NEU-DET and Magnetic-Tile in {folder} (set AGSSP_SHARED_DATA)")
        return folder

    def test_neu_det(self, shared, tmp_path):
        report = prepare_neu_det(shared / "neu_det", tmp_path)
        assert report.splits["train"]["images"] + report.splits["test"]["images"] == 1770
        assert sum(report.splits["train"]["boxes"].values()) == 2891
        assert sum(report.splits["test"]["boxes"].values()) == 1235
        assert {kind: len(cases) for kind, cases in report.problems.items() if cases} == {
            "duplicate_within_split": 1
        }
        # The reason to read the corners as 1-based: both borders are reached, neither is passed.
        edges = [
            box for found in boxes(tmp_path / "annotations/train.json").values() for box in found
        ]
        assert min(x for _, (x, _, _, _) in edges) == 0
        assert max(x + width for _, (x, _, width, _) in edges) == 200
        train = {Path(path).stem for path in files_below(tmp_path / "images/train")}
        assert train == set(load(shared / "neu_det/splits.json")["train"])

    def test_magnetic_tile(self, shared, tmp_path):
        report = prepare_magnetic_tile(shared / "magnetic_tile", tmp_path)
        counts = {split: report.splits[split]["boxes"] for split in ("train", "test")}
        assert counts == {
            "train": {"Blowhole": 71, "Break": 72, "Crack": 41, "Fray": 23, "Uneven": 60},
            "test": {"Blowhole": 47, "Break": 45, "Crack": 29, "Fray": 15, "Uneven": 39},
        }
        assert {kind: len(cases) for kind, cases in report.problems.items() if cases} == {
            "small_component": 20,
            "defect_without_box": 6,
        }
