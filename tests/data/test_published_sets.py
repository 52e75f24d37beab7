"""Every script in ``datasets/``, on a few images in the layout that its set is published in."""

import json
import re
import runpy
import sys

import pytest
from detectron2.data import DatasetCatalog

from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.data.formats.sets import prepare_published
from tests.data.label_sources import run_lengths, write_colours, write_text, yolo_line
from tests.data.prepare_sources import (
    SCRIPTS,
    files_below,
    load,
    published,
    write_image,
    write_mask,
    write_xml,
)
from tests.tiny_models import ROOT

NAMES = sorted(path.stem.removeprefix("prepare_") for path in SCRIPTS.glob("prepare_*.py"))
BOX = (2, 3, 5, 6)
LINE = yolo_line(0, *BOX)
SHAPE = {"label": "pitting", "points": [[2, 3], [7, 3], [7, 9], [2, 9]]}
LABELME = json.dumps({"imageWidth": 20, "imageHeight": 16, "shapes": [SHAPE]})


def masks(image, mask, *defects, free=()):
    """Files of images and masks: "{}" in their paths stands for one of the names."""
    files = {image.format(name): "image" for name in (*defects, *free)}
    return files | {mask.format(name): "mask" for name in defects}


def yolo(images, labels, *lists):
    files = {f"{images}/{n}.jpg": "image" for n in range(4)} | {
        f"{labels}/{n}.txt": LINE for n in range(3)
    }
    if lists:
        files["mask/0.png"] = "mask"
        files |= dict(
            zip(lists, ("images/0.jpg\nimages/3.jpg\n", "1.jpg\nD:\\images\\2.jpg\n"), strict=True)
        )
    return files


def mvtec(*objects, good="good", bad="cut", mask="_mask"):
    files = {}
    for name in objects:
        files[f"{name}/train/{good}/000.png"] = files[f"{name}/test/{good}/000.png"] = "image"
        for stem in ("000", "001", "002"):
            files[f"{name}/test/{bad}/{stem}.png"] = "image"
            files[f"{name}/ground_truth/{bad}/{stem}{mask}.png"] = "mask"
    return files


LISTS = ("train_mini_500.txt", "val.txt")
# Path -> "image", "mask", "xml <class>", "codes" (a mask of 1 and 2), or the text of the file.
FILES = {
    "aitex": masks(
        "Defect_images/{}.png", "Mask_images/{}_mask.png", *(f"000{n}_002_00" for n in range(3))
    )
    | {"NODefect_images/2306881-210020u/0009_000_00.png": "image"},
    "apddd": {
        f"{name}/{number}.jpg": "image" for name in ("dirty", "normal") for number in range(2)
    },
    "bsd_cls": {"N_1.png": "image", "N_2.png": "image", "P_1.png": "image"},
    "bsdata": {f"data/{n}.jpg": "image" for n in range(4)}
    | {f"label/{n}.json": LABELME for n in range(3)},
    "btad": mvtec("01", "03", good="ok", bad="ko", mask=""),
    "casting_billet": yolo("images", "labels", *LISTS),
    "cr7_det": yolo("lengzha/image", "lengzha/label"),
    "dagm2007": masks(
        "Class1/Train/{}.PNG", "Class1/Train/Label/{}_label.PNG", "0576", free=["0577"]
    )
    | masks("Class1/Test/{}.PNG", "Class1/Test/Label/{}_label.PNG", "0576")
    | {"Class1/Train/Label/Labels.txt": "1\n"},
    "dtd_synthetic": mvtec("Blotchy_099", "Woven_001", bad="bad"),
    "fssd_12": masks("patch/Images/{}.jpg", "patch/GT/{}.png", "1", "2")
    | masks("oil-spot/Images/{}.jpg", "oil-spot/GT/{}.png", "1", "2"),
    "gc10_det": {f"{n}/img_{n}.jpg": "image" for n in (1, 2, 10)}
    | {
        f"lable/img_{n}.xml": f"xml {name}"
        for n, name in ((1, "1_chongkong"), (2, "2_hanfeng"), (10, "10_yaozhe"))
    }
    | {"10/img_11.jpg": "image", "lable/img_11.xml": "xml 10_yaozhe"},
    "kolektor_sdd": masks("kos01/Part{}.jpg", "kos01/Part{}_label.bmp", "0", "1")
    | masks("kos02/Part{}.jpg", "kos02/Part{}_label.bmp", "0"),
    "kolektor_sdd2": masks("train/{}.png", "train/{}_GT.png", "10000", free=["10001"])
    | masks("test/{}.png", "test/{}_GT.png", "20000"),
    "magnetic_tile": masks("MT_Crack/Imgs/{}.jpg", "MT_Crack/Imgs/{}.png", "1", "2", free=[])
    | {"MT_Free/Imgs/1.jpg": "image"},
    "medium_heavy_plate": yolo("images", "labels", *LISTS),
    "mpdd": mvtec("bracket_black", "tubes"),
    "msd": {f"{name}/{n}.jpg": "image" for name in ("crack", "dent") for n in range(2)},
    "mvtec_ad": mvtec("leather", "tile"),
    "neu_det": {f"IMAGES/patches_{n}.jpg": "image" for n in range(3)}
    | {f"ANNOTATIONS/patches_{n}.xml": "xml patches" for n in range(3)},
    "neu_seg": {f"images/{part}/000001.jpg": "image" for part in ("training", "test")}
    | {f"annotations/{part}/000001.png": "codes" for part in ("training", "test")},
    "road_crack": masks("images/{}.jpg", "masks/{}.png", "1", "2", "3"),
    "rsdds": masks("Type-I/images/{}.jpg", "Type-I/GroundTruth/{}.jpg", "rail_1", "rail_2")
    | masks("Type-II/images/{}.jpg", "Type-II/GroundTruth/{}.jpg", "rail_1"),
    "severstal": {f"train_images/{n}.jpg": "image" for n in range(4)} | {"train.csv": "runs"},
    "ssgd": {f"images/{n}.jpg": "image" for n in range(3)} | {"annotations.json": "coco"},
    "steel_pipe": yolo("images", "labels", *LISTS),
}
UNLABELLED = {"apddd": 4, "bsd_cls": 2, "msd": 4}


def make(root, files):
    for path, content in files.items():
        target = root / path
        if content == "image":
            write_image(target, path)
        elif content == "mask":
            write_mask(target, BOX)
        elif content == "codes":
            write_colours(target, (1, 0, 0, 3, 3), (3, *BOX), mode="L")
        elif content.startswith("xml "):
            write_xml(target, (content.removeprefix("xml "), 3, 4, 7, 9))
        elif content == "runs":
            runs = run_lengths(write_mask(root.parent / "runs.png", BOX))
            rows = "".join(f"{n}.jpg,3,{runs}\n" for n in range(3))
            write_text(target, f"ImageId,ClassId,EncodedPixels\n{rows}")
        elif content == "coco":
            images = [
                {"id": n, "file_name": f"{n}.jpg", "width": 20, "height": 16} for n in range(3)
            ]
            boxes = [
                {"id": n, "image_id": n, "category_id": 1, "bbox": list(BOX)} for n in range(3)
            ]
            names = [{"id": 1, "name": "crack"}]
            content = {"images": images, "annotations": boxes, "categories": names}
            write_text(target, json.dumps(content))
        else:
            write_text(target, content)


@pytest.fixture(params=NAMES)
def miniature(request, tmp_path):
    """The description of a set, and a folder in its layout."""
    make(tmp_path / "in", FILES[request.param])
    return published(request.param), tmp_path / "in"


def test_every_box_is_found(miniature, tmp_path):
    described, source = miniature
    report = prepare_published(described, source, tmp_path / "out", partial=True)
    found = {kind: cases for kind, cases in report.problems.items() if cases}
    # Images that are free of defects, and lists with paths of another machine.
    assert found.keys() <= {"image_without_label", "found_elsewhere"}
    images = files_below(tmp_path / "out/images")
    if described.name in UNLABELLED:
        assert len(images) == UNLABELLED[described.name]
        assert not (tmp_path / "out/annotations").exists()
        return
    boxes = [
        entry["bbox"]
        for split in ("train", "test")
        for entry in load(tmp_path / f"out/annotations/{split}.json")["annotations"]
    ]
    labels = [content for content in FILES[described.name].values() if content != "image"]
    per_label = {"codes": 2, "runs": 3, "coco": 3}
    lists = [content for content in labels if ".jpg\n" in content or content == "1\n"]
    masks_beside = "mask" in labels and LINE in labels
    expected = sum(per_label.get(content, 1) for content in labels) - len(lists) - masks_beside
    assert len(boxes) == expected
    assert all(box in ([*BOX], [0, 0, 3, 3]) for box in boxes)
    assert len(images) == sum(content == "image" for content in FILES[described.name].values())
    assert load(tmp_path / "out/splits.json")["test"]


def test_a_part_is_refused_unless_it_is_wanted(miniature, tmp_path):
    described, source = miniature
    if described.any_part:
        report = prepare_published(described, source, tmp_path / "out")
        assert any(f"{described.published} are published" in note for note in report.notes)
        return
    with pytest.raises(
        ValueError, match=r"usable images, .* published, so \d+ are missing"
    ) as error:
        prepare_published(described, source, tmp_path / "out")
    assert described.page in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_described(name, monkeypatch, capsys):
    """In its help, and in the list of all."""
    described = published(name)
    assert described.name == name
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(SCRIPTS / f"prepare_{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for text in (described.page, described.licence, described.published, "--partial"):
        assert text in printed
    rows = re.findall(r"^\| .+ \|$", (ROOT / "datasets/README.md").read_text(), re.MULTILINE)
    (row,) = (row for row in rows if f"`prepare_{name}.py`" in row)
    assert described.page in row
    assert described.licence in row


def test_more_than_published(tmp_path):
    make(tmp_path / "in", FILES["kolektor_sdd"] | {f"x/{n}.jpg": "image" for n in range(400)})
    with pytest.raises(ValueError, match="403 usable images, 399 are published, so 4 are too many"):
        prepare_published(published("kolektor_sdd"), tmp_path / "in", tmp_path / "out")


def test_the_authors_lists_and_folders(tmp_path):
    make(tmp_path / "a", FILES["casting_billet"])
    prepare_published(
        published("casting_billet"), tmp_path / "a", tmp_path / "billet", partial=True
    )
    assert load(tmp_path / "billet/splits.json") == {"train": ["0", "3"], "test": ["1", "2"]}
    make(tmp_path / "b", FILES["neu_seg"])
    report = prepare_published(published("neu_seg"), tmp_path / "b", tmp_path / "seg", partial=True)
    assert files_below(tmp_path / "seg/images") == {
        "train/training/000001.jpg",
        "test/test/000001.jpg",
    }
    assert "WARNING: NEU-Seg is made of NEU-DET's images" in report.table()


def test_labels_in_another_format(tmp_path):
    make(tmp_path / "in", FILES["ssgd"])
    described = published("gc10_det")
    prepare_published(described, tmp_path / "in", tmp_path / "out", partial=True, format="coco")
    assert [
        entry["name"] for entry in load(tmp_path / "out/annotations/test.json")["categories"]
    ] == ["crack"]


def test_prepared_sets_are_registered(tmp_path, empty_catalogs):
    make(tmp_path / "in", FILES["bsdata"])
    described = published("bsdata")
    prepare_published(described, tmp_path / "in", tmp_path / "datasets/bsdata", partial=True)
    (tmp_path / "datasets/coco/annotations").mkdir(parents=True)
    write_text(tmp_path / "datasets/coco/annotations/train2017.json", "{}")
    names = register_builtin_datasets(tmp_path / "datasets")
    assert {"bsdata_train", "bsdata_test"} < set(names)
    assert not any(name.startswith("coco") for name in names)
    dicts = DatasetCatalog.get("bsdata_train") + DatasetCatalog.get("bsdata_test")
    assert len(dicts) == 4
    assert sum(len(entry["annotations"]) for entry in dicts) == 3
