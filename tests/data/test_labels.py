"""Labels of every format: what is read, what is wrong in them, their parts, and their names."""

import json
import os
import shutil

import pytest
from detectron2.data import DatasetCatalog

from detectron2_agssp.cli.main import main
from detectron2_agssp.data import FORMATS, read_labels, register_label_files
from detectron2_agssp.data.labels import registered_name, write_labels
from detectron2_agssp.io.coco import read_coco
from tests.data import label_sources as sources
from tests.data.label_sources import (
    BOXES,
    CLASSES,
    boxes_of,
    make_coco,
    make_mvtec,
    make_voc,
    make_yolo,
    read,
    write_colours,
    write_text,
    yolo_line,
)
from tests.data.prepare_sources import (
    write_image,
)


class TestEveryFormat:
    @pytest.mark.parametrize("format", [name for name in FORMATS if name != "mvtec"])
    def test_boxes(self, tmp_path, format):
        getattr(sources, f"make_{format}")(tmp_path)
        classes = CLASSES if format == "rle" else None
        boxes, problems = read(tmp_path, format, classes=classes)
        assert boxes == BOXES
        expected = {
            "yolo": {"image_without_label": ["c"]},
            "masks": {"image_without_label": ["c"]},
            "rle": {"image_without_label": ["c"]},
            "voc": {"defect_without_box": ["c"]},
        }
        assert problems == expected.get(format, {})

    def test_mvtec(self, tmp_path):
        make_mvtec(tmp_path)
        write_image(tmp_path / "bolt/test/dent/lone.png", 1)
        coco = read_labels(tmp_path, "mvtec")
        assert coco["info"]["problems"] == {"image_without_annotation": ["bolt/test/dent/lone"]}
        assert boxes_of(coco) == {"a": [BOXES["a"][0]], "b": BOXES["b"], "c": [], "d": []}
        assert len(coco["images"]) == 5  # c is there twice, in train/good and in test/good

    @pytest.mark.parametrize("format", FORMATS)
    def test_nothing_there(self, tmp_path, format):
        with pytest.raises(FileNotFoundError, match="expected"):
            read_labels(tmp_path, format)
        with pytest.raises(FileNotFoundError, match=r"no source folder .*gone"):
            read_labels(tmp_path / "gone", format)
        with pytest.raises(ValueError, match=r"no option minarea; they have"):
            read_labels(tmp_path, format, minarea=3)

    @pytest.mark.parametrize("format", FORMATS)
    def test_files_without_a_byte(self, tmp_path, format):
        """Named, and the rest is read."""
        getattr(sources, f"make_{format}")(tmp_path)
        whole = read_labels(tmp_path, format)
        image = whole["images"][0]
        (tmp_path / image["file_name"]).write_bytes(b"")
        coco = read_labels(tmp_path, format)
        assert len(coco["images"]) == len(whole["images"]) - 1
        (case,) = coco["info"]["problems"]["unreadable_image"]
        assert "(0 bytes)" in case

    def test_wrong_arguments(self, tmp_path):
        with pytest.raises(ValueError, match=r"got 'yollo'.*yolo"):
            read_labels(tmp_path, "yollo")
        with pytest.raises(ValueError, match="a class is named twice: dent, crack, dent"):
            read_labels(tmp_path, "yolo", classes=["dent", "crack", "dent"])

    def test_problems_are_logged(self, tmp_path, caplog):
        make_yolo(tmp_path)
        with caplog.at_level("WARNING", "detectron2_agssp"):
            read_labels(tmp_path, "yolo")
        assert "1 images without labels (taken as free of defects): c" in caplog.text

    def test_a_json_beside_the_folder_of_images(self, tmp_path):
        make_coco(tmp_path)
        (tmp_path / "annotations").mkdir()
        path = shutil.move(tmp_path / "instances.json", tmp_path / "annotations/all.json")
        with pytest.raises(FileNotFoundError, match=r"1 COCO files and 0 images.*--images"):
            read_labels(path, "coco")
        assert boxes_of(read_labels(path, "coco", images=tmp_path)) == BOXES

    def test_images_elsewhere(self, tmp_path):
        make_voc(tmp_path)
        xmls = shutil.move(tmp_path / "Annotations", tmp_path.parent / f"{tmp_path.name}_xml")
        coco = read_labels(xmls, "voc", images=tmp_path)
        assert boxes_of(coco) == BOXES
        assert coco["info"]["image_root"] == str(tmp_path)

    def test_links_in_a_circle_are_named(self, tmp_path):
        make_yolo(tmp_path)
        (tmp_path / "images/back").symlink_to(tmp_path, target_is_directory=True)
        boxes, problems = read(tmp_path, "yolo")
        assert boxes == BOXES
        (case,) = problems["folder_left_out"]
        assert case == f"Left out the folder {tmp_path}/images/back: it leads in a circle."

    @pytest.mark.parametrize(
        "folders",
        [("images/{}", "labels/{}"), ("{}/images", "{}/labels"), ("{}", "{}"), ("x/{}/Y", "{}")],
    )
    def test_the_same_names_in_nested_folders(self, tmp_path, folders):
        for part, index in (("train", 0), ("val", 1)):
            images, labels = (tmp_path / folder.format(part) for folder in folders)
            write_image(images / "1.png", part)
            write_text(labels / "1.txt", yolo_line(index, *BOXES["a"][0][1:]))
        write_image(tmp_path / folders[0].format("test") / "1.png", "free")
        coco = read_labels(tmp_path, "yolo")
        names = {image["id"]: image["file_name"] for image in coco["images"]}
        found = {
            names[e["image_id"]].replace("/", " "): e["category_id"] for e in coco["annotations"]
        }
        assert {name.split("train")[0] != name: id_ for name, id_ in found.items()} == {
            True: 1,
            False: 2,
        }
        assert len(names) == 3

    def test_a_label_that_fits_two_images(self, tmp_path):
        for image in ("a.png", "a.jpg", "b.png"):
            write_image(tmp_path / image, image)
        write_text(tmp_path / "a.txt", yolo_line(0, 1, 1, 4, 4))
        write_text(tmp_path / "b.txt", "")
        boxes, problems = read(tmp_path, "yolo")
        assert boxes == {"b": []}
        assert problems["same_name_twice"] == ["a.txt (fits a.jpg and a.png)"]


class TestParts:
    @pytest.fixture
    def root(self, tmp_path):
        """40 images, each third free of defects, each tenth of the rare class, four the same."""
        for number in range(40):
            part = "train" if number < 30 else "valid"
            write_image(tmp_path / f"in/{part}/images/{number}.png", min(number, 36))
            index = int(number % 10 == 0)
            text = "" if number % 3 == 0 and not index else yolo_line(index, 1, 1, 4, 4)
            write_text(tmp_path / f"in/{part}/labels/{number}.txt", text)
        write_text(tmp_path / "in/classes.txt", "crack\ndent")
        return tmp_path / "in"

    def write(self, root, tmp_path, **options):
        files, report = write_labels(root, tmp_path / "out/all.json", "yolo", **options)
        assert {path.name for path in files.values()} == {
            f"all_{part}.json" if part else "all.json" for part in files
        }
        return {part: read_coco(path) for part, path in files.items()}, report

    def test_whole(self, root, tmp_path):
        files, report = self.write(root, tmp_path)
        assert list(files) == [""]
        assert report.splits["all"]["images"] == 40
        with pytest.raises(ValueError, match=r"json file, got .*all\.txt"):
            write_labels(root, tmp_path / "all.txt", "yolo")

    def test_drawn_by_class(self, root, tmp_path):
        files, report = self.write(root, tmp_path, shares={"val": 0.2, "test": 0.25})
        counts = {part: report.splits[part] for part in files}
        assert [counts[part]["images"] for part in ("train", "val", "test")] == [24, 7, 9]
        assert counts["train"]["images_without_boxes"] in (6, 7, 8)
        assert {counts[part]["boxes"]["dent"] for part in ("val", "test")} <= {0, 1}
        ids = [image["id"] for coco in files.values() for image in coco["images"]]
        assert sorted(ids) == list(range(1, 41))
        assert not report.problems["duplicate_across_splits"]
        assert len(report.problems["duplicate_within_split"]) == 1
        again, _ = self.write(root, tmp_path, shares={"val": 0.2, "test": 0.25})
        assert again == files
        other, _ = self.write(root, tmp_path, shares={"val": 0.2, "test": 0.25}, seed=1)
        assert other != files

    @pytest.mark.parametrize("shares", [{"val": 0.5, "test": 0.5}, {"val": 0.0}, {"test": -0.1}])
    def test_shares_that_cannot_be(self, root, tmp_path, shares):
        with pytest.raises(ValueError, match="above 0, and below 1 together; got"):
            self.write(root, tmp_path, shares=shares)
        with pytest.raises(ValueError, match=r"val would have no image: 0\.01 of 40 images"):
            self.write(root, tmp_path, shares={"val": 0.01})

    def test_by_folder(self, root, tmp_path):
        _, report = self.write(root, tmp_path, split=["folders"])
        assert {part: counts["images"] for part, counts in report.splits.items()} == {
            "train": 30,
            "val": 10,
        }
        make_coco(tmp_path / "flat")
        with pytest.raises(ValueError, match="in a folder of the name of a split"):
            write_labels(tmp_path / "flat", tmp_path / "x.json", "coco", split=["folders"])

    def test_by_lists(self, root, tmp_path):
        write_text(
            tmp_path / "train.txt", "0\n./train/images/1.png\n\nC:\\x\\train\\images\\2.png\n"
        )
        write_text(tmp_path / "more.json", json.dumps({"val": ["3", "4.png", "404"], "seed": 1}))
        lists = [tmp_path / "train.txt", tmp_path / "more.json"]
        files, report = self.write(root, tmp_path, split=lists)
        stems = {
            part: [image["file_name"].split("/")[-1] for image in coco["images"]]
            for part, coco in files.items()
        }
        assert stems == {"train": ["0.png", "1.png", "2.png"], "val": ["3.png", "4.png"]}
        assert report.problems["split_stem_missing"] == ["404 (val)"]
        assert len(report.problems["image_in_no_split"]) == 35
        write_text(tmp_path / "more.json", '{"val": ["1"]}')
        with pytest.raises(ValueError, match="1 is both in train and in val"):
            self.write(root, tmp_path, split=lists)
        write_text(tmp_path / "more.json", '{"val": ["x"]}')
        with pytest.raises(ValueError, match="val is empty"):
            self.write(root, tmp_path, split=lists)


def test_registered_on_import(tmp_path, monkeypatch, empty_catalogs):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    make_yolo(tmp_path / "in")
    output = tmp_path / "datasets/agssp_labels/mine.json"
    parts = json.dumps({"train": ["a"], "val": ["b", "c"]})
    write_text(tmp_path / "parts.json", parts)
    files, _ = write_labels(tmp_path / "in", output, "yolo", split=[tmp_path / "parts.json"])
    assert registered_name(files["val"]) == "agssp_labels_mine_val"
    assert registered_name(tmp_path / "elsewhere.json") is None
    os.makedirs(output.parent / "other")
    write_text(output.parent / "other/broken.json", "{}")
    names = ["agssp_labels_mine_train", "agssp_labels_mine_val", "agssp_labels_other_broken"]
    assert register_label_files() == names
    assert register_label_files() == []
    dicts = [entry for name in names[:2] for entry in DatasetCatalog.get(name)]
    assert sorted(len(entry["annotations"]) for entry in dicts) == [0, 1, 2]
    assert all(os.path.isfile(entry["file_name"]) for entry in dicts)
    with pytest.raises(ValueError, match="does not say where its images are"):
        DatasetCatalog.get(names[2])


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in/images/a.png", "a")
    write_colours(tmp_path / "in/masks/a.png", (1, 2, 3, 5, 6), (2, 12, 1, 4, 4), mode="L")
    words = "in out.json --format masks --values classes --min-area 20 --codes 1=crack 2=dent"
    main(["labels", *words.split()])
    printed = capsys.readouterr().out
    assert printed.endswith("written: out.json\n")
    assert "1 mask components left out: below the minimal area: a (16 px at 12,1)" in printed
    assert boxes_of(read_coco("out.json")) == {"a": BOXES["a"][:1]}
    with pytest.raises(SystemExit, match="2"):
        main(["labels", "in", "out.json", "--format", "mask"])
    error = capsys.readouterr().err
    assert error.startswith("error: labels are coco, yolo, voc, masks, mvtec, rle; got 'mask'")
