"""Where defects are, by a COCO json."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from detectron2_agssp.evaluation.map_folder import evaluate_map_folder
from detectron2_agssp.evaluation.truth import CocoTruth, MaskFolder, ground_truth

ENTRY = {"image": "line/a.png", "height": 20, "width": 40, "source": "line"}


def write_coco(path, labels, names=("test/line/a.png",)):
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": 0, **label} for i, label in enumerate(labels)],
        "categories": [{"id": 1, "name": "crack"}, {"id": 2, "name": "dent"}],
    }
    path.write_text(json.dumps(content))
    return path


def box(x, y, w, h, category=1):
    return {"bbox": [x, y, w, h], "category_id": category}


def test_boxes(tmp_path):
    """Their union, cut at the image's border; the class of most of them."""
    labels = [box(2, 3, 5, 4), box(30, 10, 20, 20, 2), box(4, 5, 4, 4, 2)]
    name, mask = CocoTruth(write_coco(tmp_path / "c.json", labels))(ENTRY)
    expected = np.zeros((20, 40), bool)
    expected[3:7, 2:7] = expected[10:, 30:] = expected[5:9, 4:8] = True
    assert name == "dent"
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("kind", ["polygon", "rle", "compressed"])
def test_masks_are_better_than_boxes(tmp_path, kind):
    shape = np.zeros((20, 40), np.uint8, order="F")
    shape[5:15, 10:30] = 1
    encoded = coco_masks.encode(shape)
    segmentation = {
        "polygon": [[10, 5, 30, 5, 30, 15, 10, 15]],
        "rle": {"size": [20, 40], "counts": [205, *[10, 10] * 19, 10, 205]},
        "compressed": {"size": [20, 40], "counts": encoded["counts"].decode()},
    }[kind]
    label = {**box(0, 0, 40, 20), "segmentation": segmentation}
    _, mask = CocoTruth(write_coco(tmp_path / "c.json", [label]))(ENTRY)
    np.testing.assert_array_equal(mask, shape.astype(bool))


def test_images_without_labels_are_left_out(tmp_path):
    truth = CocoTruth(write_coco(tmp_path / "c.json", [box(0, 0, 4, 4)]))
    assert truth({**ENTRY, "image": "other.png"}) is None
    assert truth({**ENTRY, "image": "ne/a.png"}) is None, "half a folder's name is no match"
    assert CocoTruth(write_coco(tmp_path / "d.json", []))(ENTRY) is None


def test_names_that_could_be_two_images(tmp_path):
    path = write_coco(tmp_path / "c.json", [box(0, 0, 4, 4)], ("x/line/a.png", "y/line/a.png"))
    with pytest.raises(ValueError, match=r"2 images whose file_name ends in 'line/a\.png'"):
        CocoTruth(path)(ENTRY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"images": [{}]}',
        '{"images": [{}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [{"image_id": 1}], "categories": []}',
        '{"images": [], "annotations": [], "categories": [1]}',
        '{"images": [], "annotations": {}, "categories": []}',
    ],
)
def test_no_coco(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json is not (a COCO )?json"):
        ground_truth(tmp_path / "c.json")


def test_a_map_folder_against_boxes(tmp_path, write_maps):
    anomaly_map = np.zeros((20, 40))
    anomaly_map[3:7, 2:7] = 1
    maps = write_maps(tmp_path / "maps", {"line/a.png": anomaly_map})
    path = write_coco(tmp_path / "c.json", [box(2, 3, 5, 4)])
    table = evaluate_map_folder(maps, path, size=0)
    assert table["crack"] == {"auroc": 1, "ap": 1, "f1_max": 1, "aupro": 1, "images": 1}
    with pytest.raises(ValueError, match="matched by the end of their file_name"):
        evaluate_map_folder(write_maps(tmp_path / "m", {"b.png": anomaly_map}), path)


# ---- what does not belong to the image


@pytest.mark.parametrize(
    ("bbox", "rows", "columns"),
    [
        ([-30, 5, 20, 4], slice(0, 0), slice(0, 0)),
        ([3, -50, 6, 40], slice(0, 0), slice(0, 0)),
        ([-5, -3, 9, 7], slice(0, 4), slice(0, 4)),
        ([38, 18, 9, 9], slice(18, 20), slice(38, 40)),
        ([50, 30, 9, 9], slice(0, 0), slice(0, 0)),
        ([10, 10, -4, -4], slice(0, 0), slice(0, 0)),
        ([-1e300, -1e300, 2e300, 2e300], slice(0, 20), slice(0, 40)),
    ],
)
def test_boxes_are_cut_on_all_sides(tmp_path, bbox, rows, columns):
    """A negative end would mark the opposite side of the image."""
    label = {"bbox": bbox, "category_id": 1}
    _, mask = CocoTruth(write_coco(tmp_path / "c.json", [label]))(ENTRY)
    expected = np.zeros((20, 40), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [40, 20], "counts": [800]}, r"mask has the size \[40, 20\], its image \[20, 40"),
        ({"size": [10**6, 10**6], "counts": "a"}, "mask has the size"),
        ({"size": [20, 40]}, "segmentation is none of COCO's"),
        ([["a", "b"]], "segmentation is none of COCO's"),
        ("abc", "segmentation is none of COCO's"),
    ],
)
def test_segmentations_of_another_size_or_kind(tmp_path, segmentation, message):
    label = {**box(0, 0, 4, 4), "segmentation": segmentation}
    truth = CocoTruth(write_coco(tmp_path / "c.json", [label]))
    with pytest.raises(ValueError, match=rf"Label 0 of 'line/a\.png' in .*c\.json: its {message}"):
        truth(ENTRY)


@pytest.mark.parametrize("name", ["a.png", "line\\a.png", "test\\line\\a.png", "x/line/a.png"])
def test_names_match_by_their_ends_in_both_directions(tmp_path, name):
    truth = CocoTruth(write_coco(tmp_path / "c.json", [box(2, 3, 5, 4)], (name,)))
    kind, mask = truth(ENTRY)
    assert kind == "crack"
    assert mask.sum() == 20
    assert truth.left_out == []


def test_a_name_that_is_the_end_of_two_images(tmp_path):
    truth = CocoTruth(write_coco(tmp_path / "c.json", [box(2, 3, 5, 4)], ("a.png",)))
    assert truth(ENTRY) is not None
    assert truth(ENTRY) is not None, "asking again is no second image"
    with pytest.raises(ValueError, match=r"'a\.png' of .* is the end of 'line/a\.png' and of 'x/a"):
        truth({**ENTRY, "image": "x/a.png"})


def test_the_whole_name_counts_more_than_its_end(tmp_path):
    names = ("line/a.png", "test/line/a.png")
    truth = CocoTruth(write_coco(tmp_path / "c.json", [box(2, 3, 5, 4)], names))
    assert truth.find(ENTRY)["id"] == 0


# ---- folders of masks


def write_mask(path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_masks_of_another_size_are_refused(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[4:9, 5:25] = 255
    truth = MaskFolder(tmp_path)
    write_mask(tmp_path / "line/a.png", mask)
    kind, found = truth(ENTRY)
    assert kind == "line"
    np.testing.assert_array_equal(found, mask > 0)
    for other in (np.rot90(mask), mask[:, :-1], np.repeat(mask, 2, axis=1)):
        write_mask(tmp_path / "line/a.png", np.ascontiguousarray(other))
        message = rf"a\.png' is {other.shape[0]} x {other.shape[1]} .*'line/a\.png' 20 x 40"
        with pytest.raises(ValueError, match=message):
            truth(ENTRY)


def test_what_is_left_out_is_named(tmp_path, caplog):
    for name in ("b.png", "a_mask.png"):
        write_mask(tmp_path / "line" / name, np.zeros((20, 40), np.uint8))
    truth = MaskFolder(tmp_path)
    truth.warn_left_out()
    assert not caplog.records
    assert truth(ENTRY) is None
    assert truth({**ENTRY, "image": "line/b.jpg"}) is not None
    truth.warn_left_out()
    (record,) = caplog.records
    assert "1 images are left out" in record.getMessage()
    assert "'line/a.png'. Masks of no image: 'line/a_mask.png'." in record.getMessage()


def test_a_path_that_leads_out_of_the_masks(tmp_path):
    write_mask(tmp_path / "a.png", np.zeros((20, 40), np.uint8))
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"'\.\./a\.png' is not the path of a file below"):
        MaskFolder(tmp_path / "masks")({**ENTRY, "image": "../a.png"})
