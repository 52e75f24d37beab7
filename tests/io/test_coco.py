"""COCO files: what is wrong with them is named, and what is written is read again."""

import json
import re

import pytest

from detectron2_agssp.io.coco import (
    check_coco_json,
    check_same_categories,
    coco_annotation,
    coco_categories,
    coco_image,
    read_coco,
    subset,
    write_coco,
)
from detectron2_agssp.io.files import write_json
from tests.data.prepare_sources import HEIGHT, WIDTH, write_image


@pytest.fixture
def content(tmp_path):
    write_image(tmp_path / "a.png", 1)
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 3, "image_id": 7, "category_id": 1, "bbox": [0.0, 0, 20.01, 16]}],
        "categories": [{"id": 1, "name": "crack"}],
    }


def problems(tmp_path, content):
    write_json(tmp_path / "coco.json", content)
    return check_coco_json(tmp_path / "coco.json", tmp_path)


def test_nothing_wrong(tmp_path, content):
    assert problems(tmp_path, content) == []


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("annotations", {"bbox": [15, 0, 6, 4]}, "Annotation 3 .* leaves image 7 of 20 x 16"),
        ("annotations", {"bbox": [0, 9, 6, 8]}, "Annotation 3 .* leaves image 7"),
        ("annotations", {"bbox": [0, -1, 6, 4]}, "Annotation 3 .* leaves image 7"),
        ("annotations", {"bbox": [0, 0, 0, 4]}, "Annotation 3 .* no area"),
        ("annotations", {"bbox": [9, 9, 4, -4]}, "Annotation 3 .* no area"),
        ("annotations", {"bbox": [0, 0, 4]}, "Annotation 3 .* not four numbers"),
        ("annotations", {"bbox": [0, 0, 4, float("nan")]}, "Annotation 3 .* not four"),
        ("annotations", {"image_id": 8}, "Annotation 3 .* unknown image id 8"),
        ("annotations", {"category_id": 0}, "Annotation 3 .* unknown category id 0"),
        ("images", {"file_name": "b.png"}, r"Image 7: there is no file b\.png"),
        ("images", {"file_name": ""}, "Image 7 has no file name"),
        ("images", {"width": 0}, "Image 7 has the size 0 x 16"),
    ],
)
def test_one_thing_wrong(tmp_path, content, kind, change, message):
    content[kind][0].update(change)
    (problem,) = problems(tmp_path, content)
    assert re.search(message, problem)


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_ids_given_twice_or_not(tmp_path, content, kind):
    content[kind] *= 2
    assert problems(tmp_path, content) == [f"2 of the {kind} have the id {content[kind][0]['id']}."]
    content[kind] = [*content[kind][:1], {**content[kind][0], "id": None}]
    assert f"1 of the {kind} have no id." in problems(tmp_path, content)


def test_no_file_no_json_no_coco(tmp_path):
    path = tmp_path / "coco.json"
    with pytest.raises(FileNotFoundError, match=r"coco\.json"):
        check_coco_json(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"coco\.json is not json"):
        check_coco_json(path)
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match="no list of categories"):
        check_coco_json(path)


@pytest.mark.parametrize("bad_id", [None, [7], {}, True, 1.5])
def test_ids_of_other_kinds_are_none(tmp_path, content, bad_id):
    content["annotations"][0]["image_id"] = content["categories"][0]["id"] = bad_id
    assert problems(tmp_path, content) == [
        "1 of the categories have no id.",
        "Annotation 3 has the unknown category id 1.",
        f"Annotation 3 has the unknown image id {bad_id}.",
    ]


# ---- reading


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_reader_takes_every_encoding(tmp_path, content, encoding):
    content["categories"][0]["name"] = "Riß"
    text = json.dumps({**content, "info": {}}, ensure_ascii=False)
    (tmp_path / "coco.json").write_text(text, encoding=encoding)
    assert read_coco(tmp_path / "coco.json") == content
    assert check_coco_json(tmp_path / "coco.json") == []


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images", {"id": None}, r"images\[0\] has the id None"),
        ("images", {"id": [1]}, r"images\[0\] has the id \[1\]"),
        ("images", {"file_name": 3}, "has the file_name 3"),
        ("images", {"width": "20"}, "has the size '20' x 16"),
        ("images", {"height": -16}, "has the size 20 x -16"),
        ("images", {"height": 10**9}, "has the size 20 x 1000000000"),
        ("images", {"height": float("inf")}, "has the size 20 x inf"),
        ("annotations", {"image_id": {}}, r"annotations\[0\] has the image_id {}"),
        ("annotations", {"category_id": True}, "has the category_id True"),
        ("annotations", {"bbox": [0, 0, 1, float("nan")]}, "not four numbers"),
        ("annotations", {"bbox": None}, "has the bbox None"),
        ("categories", {"name": 5}, r"categories\[0\] has the name 5"),
        ("categories", {"id": 0.5}, "has the id 0.5"),
    ],
)
def test_records_that_cannot_be_used_are_named(tmp_path, content, kind, change, message):
    content[kind][0].update(change)
    write_json(tmp_path / "coco.json", content)
    with pytest.raises(ValueError, match=rf"coco\.json is not a COCO json: .*{message}"):
        read_coco(tmp_path / "coco.json")


def test_a_label_needs_a_box_or_a_mask(tmp_path, content):
    del content["annotations"][0]["bbox"]
    write_json(tmp_path / "coco.json", content)
    with pytest.raises(ValueError, match="has neither bbox nor segmentation"):
        read_coco(tmp_path / "coco.json")
    content["annotations"][0]["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    write_json(tmp_path / "coco.json", content)
    assert read_coco(tmp_path / "coco.json") == content


# ---- writing, subsets, categories


def test_what_is_written_is_read_and_the_same_bytes(tmp_path):
    content = {
        "categories": coco_categories(["Riß", "dent"]),
        "images": [coco_image(7, "ü/a.png", height=16, width=20)],
        "annotations": [coco_annotation(1, 7, 2, (1.5, 2, 3, 4), score=0.5)],
    }
    write_coco(tmp_path / "a.json", content)
    write_coco(tmp_path / "b.json", dict(reversed(content.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_coco(tmp_path / "a.json") == content
    (annotation,) = content["annotations"]
    assert annotation["area"] == 12
    assert annotation["score"] == 0.5
    assert content["categories"][0] == {"id": 1, "name": "Riß"}
    content["annotations"][0]["bbox"][0] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_coco(tmp_path / "a.json", content)
    assert read_coco(tmp_path / "a.json")["annotations"][0]["bbox"] == [1.5, 2, 3, 4]


def test_subset_keeps_the_categories(content):
    content["images"].append(coco_image(8, "b.png", height=4, width=5))
    part = subset(content, {8})
    assert part == {**content, "images": content["images"][1:], "annotations": []}
    assert subset(content, {7})["annotations"] == content["annotations"]


@pytest.mark.parametrize(
    "names", [["dent", "crack"], ["crack"], ["crack", "dent", "spot"], ["Crack", "dent"]]
)
def test_classes_of_splits_are_compared_by_id_and_name(names):
    train = {"categories": coco_categories(["crack", "dent"])}
    check_same_categories({"train": train, "test": {"categories": train["categories"][::-1]}})
    check_same_categories({})
    with pytest.raises(ValueError, match=r"test has the categories .*, but train {1: 'crack', 2"):
        check_same_categories({"train": train, "test": {"categories": coco_categories(names)}})
