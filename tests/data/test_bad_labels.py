"""Labels as they must not be: what is damaged is named, the rest is read, nothing else written."""

import json
import os

import pytest
from PIL import Image

from detectron2_agssp.cli.main import main
from detectron2_agssp.data import FORMATS, read_labels
from detectron2_agssp.data.labels import write_labels
from tests.data import label_sources as sources
from tests.data.label_sources import (
    BOXES,
    CLASSES,
    make_coco,
    make_rle,
    make_yolo,
    read,
    write_text,
)
from tests.data.prepare_sources import HEIGHT, WIDTH, files_below

# Image "a", and the file of its labels.
IMAGES = {
    "coco": "images/a.png",
    "yolo": "images/a.png",
    "voc": "JPEGImages/a.png",
    "masks": "images/a.png",
    "mvtec": "bolt/test/crack/a.png",
    "rle": "train_images/a.jpg",
}
LABELS = {
    "coco": "instances.json",
    "yolo": "labels/a.txt",
    "voc": "Annotations/a.xml",
    "masks": "masks/crack/a.png",
    "mvtec": "bolt/ground_truth/crack/a_mask.png",
    "rle": "train.csv",
}
WHOLE = ("coco", "rle")  # a file of all labels
ODD = ("image_without_label", "defect_without_box")  # of the image "c", in some formats


def change(root, format, files, how):
    """Makes the format's folder, and one of its files empty or a link to itself."""
    getattr(sources, f"make_{format}")(root)
    path = root / files[format]
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    else:
        path.symlink_to(path.name)
    return path


@pytest.mark.parametrize("how", ["empty", "link to itself"])
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_that_is_nothing(tmp_path, format, how):
    change(tmp_path, format, IMAGES, how)
    boxes, problems = read(tmp_path, format)
    assert "a" not in boxes
    assert boxes["b"]
    (case,) = problems["unreadable_image"]
    assert IMAGES[format] in case
    assert ("0 bytes" if how == "empty" else "symbolic links") in case
    assert not problems.keys() - {"unreadable_image", *ODD}


@pytest.mark.parametrize("how", ["empty", "link to itself"])
@pytest.mark.parametrize("format", FORMATS)
def test_labels_that_are_nothing(tmp_path, format, how):
    path = change(tmp_path, format, LABELS, how)
    if format in WHOLE:
        with pytest.raises(FileNotFoundError, match=rf"{path.name} \(.*expected"):
            read_labels(tmp_path, format)
        return
    boxes, problems = read(tmp_path, format)
    assert boxes["b"]
    if format == "yolo" and how == "empty":  # it says: no defect
        assert boxes["a"] == []
        return
    assert "a" not in boxes
    (case,) = problems["unreadable_annotation"]
    assert LABELS[format] in case


@pytest.mark.parametrize(
    ("format", "kind", "said"),
    [
        ("coco", "size_differs", "a (json 20x16, image 17x16)"),
        ("voc", "size_differs", "a (xml 20x16, image 17x16)"),
        ("masks", "mask_size_differs", "a (mask 20x16, image 17x16)"),
        ("mvtec", "mask_size_differs", "bolt/test/crack/a (mask 20x16, image 17x16)"),
        ("rle", "mask_size_differs", "b (run lengths to pixel 320 of an image 17x16)"),
    ],
)
def test_an_image_that_was_cropped(tmp_path, format, kind, said):
    """Where the rest was, nobody knows; YOLO's parts do not tell."""
    getattr(sources, f"make_{format}")(tmp_path)
    # Of run lengths, those that end in the part that is gone tell.
    path = tmp_path / IMAGES[format]
    path = path.with_name("b.jpg") if format == "rle" else path
    Image.open(path).crop((0, 0, WIDTH - 3, HEIGHT)).save(path)
    boxes, problems = read(tmp_path, format)
    assert path.stem not in boxes
    assert problems[kind] == [said]


@pytest.mark.parametrize("values", ["instances", "classes"])
def test_a_mask_of_a_crop_whatever_its_values_are(tmp_path, values):
    sources.make_masks(tmp_path)
    Image.new("L", (WIDTH, HEIGHT - 2)).save(tmp_path / "masks/crack/b.png")
    boxes, problems = read(tmp_path, "masks", values=values)
    assert boxes.keys() == {"a", "c"}
    assert problems["mask_size_differs"] == ["b (mask 20x14, image 20x16)"]


@pytest.mark.parametrize("format", FORMATS)
def test_links_in_a_circle(tmp_path, format):
    getattr(sources, f"make_{format}")(tmp_path)
    expected = read(tmp_path, format)[0]
    (tmp_path / IMAGES[format]).parent.joinpath("back").symlink_to(tmp_path)
    boxes, problems = read(tmp_path, format)
    assert boxes == expected
    (case,) = problems["folder_left_out"]
    assert case.endswith("/back: it leads in a circle.")


class TestTables:
    ROW = "a.jpg{0}1{0}35 6"

    @pytest.mark.parametrize(
        "text",
        [
            "sep=;\r\nImageId;ClassId;EncodedPixels\r\n" + ROW.format(";"),
            '"sep=\t"\nImageId\tClassId\tEncodedPixels\n' + ROW.format("\t"),
            "ImageId|ClassId|EncodedPixels\n" + ROW.format("|"),
            " ImageId ; ClassId ; EncodedPixels\n" + ROW.format(" ; "),
            '"ImageId","ClassId","EncodedPixels"\n"a.jpg","1","35 6"',
            ";ImageId;ClassId;EncodedPixels\n0;a.jpg;1.0;35 6\n1;b.jpg;;\n",
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_other_separators(self, tmp_path, text, encoding):
        make_rle(tmp_path)
        write_text(tmp_path / "train.csv", text, encoding)
        boxes, problems = read(tmp_path, "rle", classes=CLASSES)
        assert boxes == {"a": [("crack", 2, 2, 1, 6)], "b": [], "c": []}
        assert not problems.keys() - {"image_without_label"}

    @pytest.mark.parametrize(
        ("text", "error", "said"),
        [
            ("", FileNotFoundError, r"no table of run lengths, but train\.csv \(empty\)"),
            ("a,b\n1,2", FileNotFoundError, r"train\.csv \(begins with 'a,b'\)"),
            ("ImageId,EncodedPixels\na.jpg;35 6", ValueError, "none of the images of its table"),
        ],
    )
    def test_tables_that_are_none(self, tmp_path, text, error, said):
        make_rle(tmp_path)
        write_text(tmp_path / "train.csv", text)
        with pytest.raises(error, match=said):
            read_labels(tmp_path, "rle")

    def test_another_table_beside_it(self, tmp_path):
        """What is not to be read is no reason to read nothing."""
        make_rle(tmp_path)
        (tmp_path / "a.csv").symlink_to("a.csv")
        write_text(tmp_path / "b.csv", "")
        assert read(tmp_path, "rle", classes=CLASSES)[0] == BOXES


class TestClassesTwice:
    def test_a_number_with_two_names(self, tmp_path):
        make_yolo(tmp_path)
        write_text(tmp_path / "data.yaml", "names:\n  0: crack\n  0: dent\n")
        with pytest.raises(ValueError, match=r"data\.yaml .*'0' is there twice"):
            read_labels(tmp_path, "yolo")

    def test_an_id_with_two_names(self, tmp_path):
        make_coco(tmp_path)
        path = tmp_path / "instances.json"
        content = json.loads(path.read_text())
        content["categories"][1]["id"] = 0
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"the id 0 is that of the classes 'crack' and 'dent'"):
            read_labels(tmp_path, "coco")
        content["categories"][1]["name"] = "crack"
        path.write_text(json.dumps(content))
        problems = read(tmp_path, "coco")[1]
        assert problems["class_twice"] == ["crack (instances.json)"]

    def test_a_value_with_two_names(self, tmp_path, capsys):
        sources.write_colours(tmp_path / "masks/a.png", (1, 2, 3, 5, 6), mode="L")
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
        words = ["labels", str(tmp_path), str(tmp_path / "out.json"), "--format", "masks"]
        words += ["--values", "classes", "--codes", "1=crack", "2=crack"]
        with pytest.raises(SystemExit):
            main([*words, "1=dent"])
        assert "error: the value 1 is both 'crack' and 'dent'" in capsys.readouterr().err
        assert not (tmp_path / "out.json").exists()
        main(words)
        assert "crack" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="there it is a path")
def test_a_path_of_windows(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["labels", "C:\\data\\set", str(tmp_path / "out.json"), "--format", "voc"])
    assert "It is a path of Windows" in capsys.readouterr().err


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_written_but_the_output(tmp_path, format):
    getattr(sources, f"make_{format}")(tmp_path / "in")
    before = files_below(tmp_path)
    write_labels(tmp_path / "in", tmp_path / "out" / "all.json", format)
    assert files_below(tmp_path) == {*before, "out/all.json"}
