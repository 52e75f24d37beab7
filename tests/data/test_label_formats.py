"""Labels in YOLO text, VOC, masks, run lengths and COCO: what is read and what is wrong in them."""

import json

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from detectron2_agssp.data import read_labels
from detectron2_agssp.data.formats.report import Report
from detectron2_agssp.data.formats.yolo import write_yolo
from tests.data.label_sources import (
    BOXES,
    CLASSES,
    boxes_of,
    make_coco,
    make_rle,
    read,
    write_colours,
    write_text,
    yolo_line,
)
from tests.data.prepare_sources import (
    HEIGHT,
    WIDTH,
    files_below,
    write_image,
    write_mask,
    write_xml,
)


class TestYolo:
    @pytest.fixture
    def root(self, tmp_path):
        write_image(tmp_path / "images/a.png", "a")
        write_text(tmp_path / "classes.txt", "crack\r\ndent\r\n", "utf-8-sig")
        return tmp_path

    @pytest.mark.parametrize(
        ("line", "box", "kind"),
        [
            ("1 0.5 0.5 0.2 0.25", ("dent", 8, 6, 4, 4), None),
            ("1.0 0.5 0.5 .2 2.5e-1", ("dent", 8, 6, 4, 4), None),
            ("0 0.1 0.125 0.5 0.125 0.5 0.5 0.1 0.5", ("crack", 2, 2, 8, 6), None),
            ("0 0.1 0.125 0.5 0.125 0.5 1.5", ("crack", 2, 2, 8, 14), "box_clipped"),
            ("1 0.0 0.5 0.2 0.25", ("dent", 0, 6, 2, 4), "box_clipped"),
            ("1 0.0999999 0.5 0.2 0.25", ("dent", 0, 6, 4, 4), None),
            ("1 0.5 0.5 0 0.25", None, "box_dropped"),
            ("1 2.5 0.5 0.2 0.25", None, "box_dropped"),
            ("1 nan 0.5 0.2 0.25", None, "box_dropped"),
            ("1 320 240 64 32", None, "box_dropped"),
            ("2 0.5 0.5 0.2 0.25", None, "unknown_class"),
            ("-1 0.5 0.5 0.2 0.25", None, "unknown_class"),
            ("dent 0.5 0.5 0.2 0.25", None, "unreadable_box"),
            ("1 0.5 0.5 0.2", None, "unreadable_box"),
            ("1;0.5;0.5;0.2;0.25", None, "unreadable_box"),
            ("inf 0.5 0.5 0.2 0.25", None, "unreadable_box"),
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_lines(self, root, line, box, kind, encoding):
        write_text(root / "labels/a.txt", f"\r\n{line}\r\n", encoding)
        boxes, problems = read(root, "yolo")
        assert boxes == {"a": [box] if box else []}
        assert list(problems) == ([kind] if kind else [])
        assert all(case.startswith("a line 2 (") for cases in problems.values() for case in cases)

    def test_classes_are_numbers_without_a_list(self, root):
        (root / "classes.txt").unlink()
        write_text(root / "labels/a.txt", yolo_line(3, 1, 1, 4, 4) + yolo_line(11, 2, 2, 4, 4))
        report = Report("yolo", "")
        coco = read_labels(root, "yolo", report=report)
        assert [entry["name"] for entry in coco["categories"]] == ["3", "11"]
        assert "classes are numbers" in report.notes[0]

    @pytest.mark.parametrize("names", ["[crack, dent, crack]", "{2: crack, 0: crack, 1: dent}"])
    def test_a_class_named_twice_is_taken_as_one(self, root, names):
        (root / "classes.txt").unlink()
        write_text(root / "data.yaml", f"names: {names}\n")
        write_text(root / "labels/a.txt", yolo_line(0, 1, 1, 4, 4) + yolo_line(2, 2, 2, 4, 4))
        boxes, problems = read(root, "yolo")
        assert [name for name, *_ in boxes["a"]] == ["crack", "crack"]
        assert problems == {"class_twice": ["crack (data.yaml)"]}

    @pytest.mark.parametrize("text", ["names: {1: a, 2: b}", "names: [a"])
    def test_classes_that_cannot_be_read(self, root, text):
        (root / "classes.txt").unlink()
        write_text(root / "data.yaml", text)
        write_text(root / "labels/a.txt", "")
        with pytest.raises(ValueError, match=r"data\.yaml"):
            read_labels(root, "yolo")

    def test_round_trip(self, tmp_path):
        """COCO -> YOLO -> COCO: boxes, polygons and classes are the same to a pixel."""
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(4):
            width, height = 61 + 97 * number, 53 + 300 * number
            name = f"line {number % 2}/ü{number}.png"
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (width, height)).save(tmp_path / "in" / name)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for _ in range(5):
                x, y = rng.uniform(0, 40, 2).tolist()
                w, h = rng.uniform(1, 13, 2).tolist()
                entry = {"id": len(annotations), "image_id": number, "bbox": [x, y, w, h]}
                if len(annotations) % 2:
                    entry["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
                annotations.append({**entry, "category_id": len(annotations) % 3})
        categories = [{"id": number, "name": name} for number, name in enumerate("xyz")]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(tmp_path / "in/all.json", json.dumps(content))
        coco = read_labels(tmp_path / "in", "coco")
        assert write_yolo(coco, tmp_path / "out", tmp_path / "in") == []
        again = read_labels(tmp_path / "out", "yolo")
        assert [entry["name"] for entry in again["categories"]] == ["x", "y", "z"]
        names = [[image["file_name"] for image in found["images"]] for found in (coco, again)]
        assert names[1] == [f"images/{name}" for name in names[0]]
        assert len(again["annotations"]) == 20
        for first, second in zip(coco["annotations"], again["annotations"], strict=True):
            assert first["category_id"] == second["category_id"]
            np.testing.assert_allclose(second["bbox"], first["bbox"], atol=0.01)
            if "segmentation" in first:
                np.testing.assert_allclose(second["segmentation"], first["segmentation"], atol=0.01)
                half = first["bbox"][2] * first["bbox"][3] / 2
                assert second["area"] == pytest.approx(half, rel=0.01)

    def test_nothing_is_written_outside_the_output(self, tmp_path):
        coco = {
            "images": [{"id": 1, "file_name": "../up.png", "width": 2, "height": 2}],
            "annotations": [],
            "categories": [],
        }
        with pytest.raises(ValueError, match=r"\.\./up\.png"):
            write_yolo(coco, tmp_path / "out/in", tmp_path)
        assert files_below(tmp_path) == set()


class TestVoc:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [({}, [0, 4, 12, 5]), ({"one_based": True}, [0, 3, 12, 6]), ({"one_based": False}, None)],
    )
    def test_corners_counted_from_0(self, tmp_path, options, expected):
        """Unless told otherwise: a corner of 0 says so, for all files."""
        write_image(tmp_path / "a.png", "a")
        write_xml(tmp_path / "a.xml", ("crack", 0, 4, 12, 9))
        boxes, problems = read(tmp_path, "voc", **options)
        assert boxes["a"] == [("crack", *(expected or [0, 4, 12, 5]))]
        assert list(problems) == (["box_clipped"] if options.get("one_based") else [])

    def test_what_may_be_missing_or_odd(self, tmp_path):
        """No size, floats, spaces, Windows' paths, the size before EXIF's rotation."""
        write_image(tmp_path / "a.png", "a")
        text = (
            "<annotation><filename>C:\\data\\a.png</filename><object><name> crack </name><bndbox>"
            "<xmin>3.0</xmin><ymin> 4.5</ymin><xmax>12.25</xmax><ymax>9</ymax></bndbox></object>"
            "</annotation>"
        )
        write_text(tmp_path / "a.xml", text)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("L", (HEIGHT, WIDTH)).save(tmp_path / "b.jpg", exif=exif)
        write_xml(tmp_path / "b.xml", ("crack", 3, 4, 12, 9), width=HEIGHT, height=WIDTH)
        boxes, problems = read(tmp_path, "voc")
        assert boxes["a"] == [("crack", 2, 3.5, 10.25, 5.5)]
        assert boxes["b"] == [("crack", 11, 2, 6, 10)]
        assert problems == {
            "size_missing": ["a (xml 0x0, image 20x16)"],
            "boxes_turned": ["b (xml 16x20, image 20x16)"],
        }

    def test_a_size_beyond_all_numbers(self, tmp_path):
        write_image(tmp_path / "a.png", "a")
        write_xml(tmp_path / "a.xml", ("crack", 3, 4, 12, 9), width="1e999")
        boxes, problems = read(tmp_path, "voc")
        assert boxes["a"] == [("crack", 2, 3, 10, 6)]
        assert problems == {"size_missing": ["a (xml 1e999x16, image 20x16)"]}


class TestMasks:
    @pytest.fixture
    def root(self, tmp_path):
        write_image(tmp_path / "images/a.jpg", "a")
        return tmp_path

    @pytest.mark.parametrize(
        "name",
        ["masks/a.png", "ground_truth/a.png", "images/a_mask.png", "images/a.bmp", "gt/a_GT.png"],
    )
    @pytest.mark.parametrize("value", [1, 255])
    def test_where_masks_are_and_what_they_mark_with(self, root, name, value):
        write_mask(root / name, (2, 3, 5, 6), value=value)
        assert read(root, "masks") == ({"a": [("defect", 2, 3, 5, 6)]}, {})

    @pytest.mark.parametrize(
        "name", ["masks/crack/a.png", "masks/a_crack.png", "masks/a-crack_gt.png"]
    )
    def test_a_mask_per_class(self, root, name):
        write_mask(root / name, (2, 3, 5, 6))
        write_mask(root / name.replace("crack", "dent"), (12, 1, 4, 4))
        assert read(root, "masks") == ({"a": BOXES["a"]}, {})
        report = Report("", "")
        coco = read_labels(root, "masks", classes=["dent"], report=report)
        assert boxes_of(coco) == {"a": BOXES["a"][1:]}
        assert report.problems["unknown_class"] == ["a ('crack')"]

    def test_segmentations(self, root):
        mask = write_mask(root / "masks/a.png", (2, 3, 5, 6), (3, 12, 9, 2))
        coco = read_labels(root, "masks")
        decoded = [pycocotools.mask.decode(entry["segmentation"]) for entry in coco["annotations"]]
        assert np.array_equal(sum(decoded), mask > 0)
        assert [entry["area"] for entry in coco["annotations"]] == [30, 18]
        assert read(root, "masks", min_area=20)[1] == {"small_component": ["a (18 px at 3,12)"]}

    def test_soft_edges(self, root):
        mask = write_mask(root / "masks/a.png", (2, 3, 5, 6))
        mask[3:9, 7] = 100
        Image.fromarray(mask).save(root / "masks/a.png")
        assert read(root, "masks")[0] == {"a": [("defect", 2, 3, 5, 6)]}
        assert read(root, "masks", threshold=99)[0] == {"a": [("defect", 2, 3, 6, 6)]}

    def test_instances(self, root):
        write_colours(
            root / "masks/a.png", (1, 1, 1, 4, 4), (2, 5, 1, 4, 4), (2, 12, 9, 2, 2), mode="L"
        )
        expected = [("defect", 1, 1, 4, 4), ("defect", 5, 1, 9, 10)]
        assert read(root, "masks", values="instances")[0] == {"a": expected}

    @pytest.mark.parametrize("mode", ["L", "P", "RGB"])
    def test_classes(self, root, mode):
        values = [(255, 0, 0), (255, 255, 255)] if mode == "RGB" else [1, 2]
        codes = ["#ff0000", "255"] if mode == "RGB" else ["1", "2"]
        write_colours(
            root / "masks/a.png", (values[0], 2, 3, 5, 6), (values[1], 12, 1, 4, 4), mode=mode
        )
        boxes, problems = read(root, "masks", values="classes")
        assert {name for name, *_ in boxes["a"]} == set(codes)
        assert not problems
        boxes, _ = read(
            root, "masks", values="classes", codes=dict(zip(codes, CLASSES, strict=True))
        )
        assert boxes == {"a": BOXES["a"]}
        boxes, problems = read(root, "masks", values="classes", codes={codes[0]: ""})
        assert boxes == {"a": []}
        assert problems == {"unknown_class": [f"a (value {codes[1]})"]}

    def test_masks_that_are_not_what_they_are_read_as(self, root):
        write_image(root / "images/b.jpg", "b")
        write_mask(root / "masks/b.png", (2, 3, 5, 6))
        write_colours(root / "masks/a.png", (40, 1, 1, 4, 4), (255, 9, 1, 4, 4), mode="L")
        boxes, problems = read(root, "masks")
        assert list(boxes) == ["b"]
        assert "regions of the value 40" in problems["mask_values"][0]
        with pytest.raises(ValueError, match="binary, instances, classes; got 'colour'"):
            read_labels(root, "masks", values="colour")

    def test_another_size_than_the_image_s(self, root):
        """Left out and named: whether it was cropped or scaled, nobody knows."""
        write_image(root / "images/b.jpg", "b")
        write_mask(root / "masks/b.png", (2, 3, 5, 6))
        Image.new("L", (WIDTH - 2, HEIGHT)).save(root / "masks/a.png")
        boxes, problems = read(root, "masks")
        assert list(boxes) == ["b"]
        assert problems == {"mask_size_differs": ["a (mask 18x16, image 20x16)"]}


class TestRunLengths:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_separators(self, tmp_path, separator):
        make_rle(tmp_path, separator)
        assert read(tmp_path / "train.csv", "rle", classes=CLASSES)[0] == BOXES

    def test_the_first_table_of_severstal(self, tmp_path):
        """A row for each image and class, empty for those without defects."""
        make_rle(tmp_path)
        lines = (tmp_path / "train.csv").read_text("utf-8-sig").splitlines()
        rows = ["ImageId_ClassId,EncodedPixels", "c.jpg_1,", "c.jpg_2,"]
        rows += [line.replace(".jpg,", ".jpg_", 1) for line in lines[1:]]
        write_text(tmp_path / "train.csv", "\n".join(rows))
        assert read(tmp_path, "rle", classes=CLASSES) == (BOXES, {})

    @pytest.mark.parametrize(
        ("row", "kind", "text"),
        [
            ("c.jpg,1,315 7", "mask_size_differs", "pixel 321 of an image 20x16"),
            ("c.jpg,1,5 7 9", "unreadable_annotation", "no pairs of numbers"),
            ("c.jpg,1,0 7", "unreadable_annotation", "above 0"),
            ("c.jpg,1,five 7", "unreadable_annotation", "no numbers"),
            ("c.jpg,3,5 7", "unknown_class", "c ('3')"),
            ("gone.jpg,1,5 7", "annotation_without_image", "gone.jpg"),
            ("old\\train_images\\c.jpg,1,5 7", "found_elsewhere", "train_images/c.jpg"),
        ],
    )
    def test_rows_that_are_wrong(self, tmp_path, row, kind, text):
        make_rle(tmp_path)
        with open(tmp_path / "train.csv", "a") as file:
            file.write(f"\n{row}\n")
        _, problems = read(tmp_path, "rle", classes=CLASSES)
        assert text in problems[kind][0]


class TestCoco:
    @pytest.fixture
    def edit(self, tmp_path):
        make_coco(tmp_path)
        path = tmp_path / "instances.json"

        def edit(change):
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
            return read(tmp_path, "coco")

        return edit

    def test_segmentations_and_crowds_are_kept(self, edit, tmp_path):
        polygon, counts = [[2, 3, 7, 3, 7, 9]], [0, 320]
        runs = {"size": [HEIGHT, WIDTH], "counts": counts}

        def change(content):
            first, second, third = content["annotations"]
            first.update(segmentation=polygon, iscrowd=0, area=15.5)
            second.update(segmentation={"size": [3, 3], "counts": [9]}, iscrowd=1)
            third["segmentation"] = runs
            del third["bbox"]

        boxes, problems = edit(change)
        assert boxes == BOXES
        (case,) = problems["segmentation_dropped"]
        assert case.startswith("annotation 1 (")
        first, second, third = read_labels(tmp_path, "coco")["annotations"]
        assert (first["segmentation"], first["area"]) == (polygon, 15.5)
        assert second["iscrowd"] == 1
        assert third["segmentation"] == runs

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            (lambda c: c["images"][0].update(file_name="x/gone.png"), "annotation_without_image"),
            (lambda c: c["images"][0].update(file_name="D:\\old\\a.png"), "found_elsewhere"),
            (lambda c: c["images"].pop(), "image_without_annotation"),
            (lambda c: c["annotations"][0].update(category_id=99), "unknown_class"),
            (lambda c: c["annotations"][0].update(image_id=99), "box_dropped"),
            (lambda c: c["annotations"][0].update(bbox=[2, 3, 0, 6]), "box_dropped"),
            (lambda c: c["annotations"][0].update(bbox=[2, 3, 50, 6]), "box_clipped"),
            (lambda c: c["images"][0].update(width=40), "size_differs"),
            (lambda c: c["categories"][1].update(name="crack"), "class_twice"),
        ],
    )
    def test_what_is_wrong_is_named(self, edit, change, kind):
        _, problems = edit(change)
        if kind == "annotation_without_image":
            assert problems.pop("image_without_annotation") == ["images/a.png"]
        assert list(problems) == [kind]
        assert len(problems[kind]) == 1

    def test_a_photo_that_exif_turns(self, edit, tmp_path):
        """Labelled on the pixels as they are stored; sizes say so."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "images/a.png", exif=exif)
        polygon = [[2, 3, 7, 3, 7, 9]]
        boxes, problems = edit(lambda c: c["annotations"][0].update(segmentation=polygon))
        assert boxes["a"] == [("crack", 7, 2, 6, 5), ("dent", 11, 12, 4, 4)]
        assert problems == {"boxes_turned": ["a (json 20x16, image 16x20)"]}
        entry = read_labels(tmp_path, "coco")["annotations"][0]
        assert entry["segmentation"] == [[13, 2, 13, 7, 7, 7]]

    def test_no_image_leads_out_of_the_folder(self, edit, tmp_path):
        write_image(tmp_path.parent / "a.png", 1)
        _, problems = edit(lambda content: content["images"][0].update(file_name="../../a.png"))
        assert problems["found_elsewhere"] == ["../../a.png (images/a.png)"]
