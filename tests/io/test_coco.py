"""check_coco_json names what is wrong with a COCO file."""

import re

import pytest

from detectron2_agssp.data.formats.coco import check_coco_json
from detectron2_agssp.data.formats.layout import write_json
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
