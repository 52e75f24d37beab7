"""Pseudo-boxes against labels."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectron2_agssp.boxes.coco_export import pseudo_boxes_as_coco
from detectron2_agssp.evaluation.box_tables import as_json, format_evaluation
from detectron2_agssp.evaluation.pseudo_boxes import evaluate_pseudo_boxes, evaluate_scored_boxes
from detectron2_agssp.io.coco import write_coco
from detectron2_agssp.utils.box_matching import match_boxes

HEIGHT, WIDTH = 40, 80
CLASSES = ("crack", "dent")


@pytest.fixture
def cfg():
    """The threshold is 0.5."""
    cfg = get_cfg()
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return cfg


def blocks(*placed, size=(HEIGHT, WIDTH)):
    """A map of zeros with blocks (x0, y0, x1, y1, value)."""
    anomaly_map = np.zeros(size)
    for x0, y0, x1, y1, value in placed:
        anomaly_map[y0:y1, x0:x1] = value
    return anomaly_map


def label(x0, y0, x1, y1, name="crack", **more):
    box = [x0, y0, x1 - x0, y1 - y0]
    return {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "name": name, **more}


def write_labels(path, images, size=(HEIGHT, WIDTH)):
    """``images``: file_name -> labels."""
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    for image_id, (name, labels) in enumerate(images.items(), 1):
        image = {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        content["images"].append(image)
        for one in labels:
            category = {"id": len(content["annotations"]) + 1, "image_id": image_id}
            category["category_id"] = 1 + CLASSES.index(one["name"])
            content["annotations"].append({**one, **category})
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def known(write_maps, tmp_path):
    """At 0.5: a box that is right, one within a large label, one beside all labels, one in a clean
    image, and a label that nothing finds."""
    maps = {
        "a/1.png": blocks((10, 5, 30, 15, 0.9), (50, 20, 56, 26, 0.8), (2, 30, 8, 38, 0.7)),
        "b/2.png": blocks((40, 0, 60, 10, 0.6)),
        "b/3.png": blocks(),
        "c/4.png": blocks((0, 0, 20, 20, 1.0)),
    }
    images = {
        "train/a/1.png": [label(10, 5, 30, 15), label(45, 12, 75, 39, "dent")],
        "train/b/2.png": [],
        "train/b/3.png": [label(60, 3, 70, 9, "dent")],
        "train/z/5.png": [label(0, 0, 9, 9)],
    }
    return write_maps(tmp_path / "maps", maps), write_labels(tmp_path / "labels.json", images)


def judge(cfg, folders, **kwargs):
    return evaluate_pseudo_boxes(cfg, *folders, progress=False, **kwargs)


def test_known_numbers(cfg, known):
    evaluation = judge(cfg, known, thresholds=(0.65, 0.0))
    assert [(one.threshold, one.configured) for one in evaluation.thresholds] == [
        (0.0, False),
        (0.5, True),
        (0.65, False),
    ]
    assert (evaluation.unknown_images, evaluation.unseen_images) == (1, 1)
    area = HEIGHT * WIDTH
    assert evaluation.labelled_area == pytest.approx((200 + 30 * 27 + 60) / (3 * area))
    configured = evaluation.thresholds[1]
    crack, dent = configured.classes["crack"], configured.classes["dent"]
    assert (crack.labels, crack.recall, crack.hit_recall) == (1, 1, 1)
    assert (dent.labels, dent.recall, dent.hit_recall) == (2, 0, 0.5)
    a, b = configured.sources["a"], configured.sources["b"]
    assert (a.images, a.boxes, a.precision, a.hit_precision) == (1, 3, 1 / 3, 2 / 3)
    assert (b.images, b.boxes, b.precision, b.without_boxes) == (2, 1, 0, 1)
    assert configured.all_images.precision == 1 / 4
    assert configured.all_labels.recall == 1 / 3
    without_box_in_b = evaluation.thresholds[2].sources["b"]
    assert (without_box_in_b.boxes, without_box_in_b.precision) == (0, None)


@pytest.mark.parametrize("min_iou", [0.3, 0.5, 0.75])
def test_is_what_pycocotools_counts(cfg, write_maps, tmp_path, min_iou):
    """Of random maps, and labels like their boxes, crowds and overlapping labels among them."""
    rng = np.random.default_rng(0)
    maps = {f"{index}.png": rng.random((5, 8)) ** 2 for index in range(30)}
    root = write_maps(tmp_path / "maps", maps, dict.fromkeys(maps, (60, 90)))
    boxes = pseudo_boxes_as_coco(cfg, root, progress=False)["annotations"]
    images = {name: [] for name in maps}
    for number, (x, y, w, h) in enumerate(box["bbox"] for box in boxes):
        labels = images[f"{boxes[number]['image_id'] - 1}.png"]
        # Two in three boxes are found, roughly, some of them twice, some by a crowd.
        for _ in range(number % 3):
            moved = np.array([x, y, x + w, y + h]) + rng.integers(-3, 4, 4)
            crowd = {"iscrowd": int(number % 4 == 0)}
            labels.append(label(*moved.tolist(), CLASSES[number % 2], **crowd))
    path = write_labels(tmp_path / "labels.json", images, (60, 90))
    (found,) = judge(cfg, (root, path), thresholds=(), min_iou=min_iou).thresholds

    truth = COCO(str(path))
    reference = COCOeval(truth, truth.loadRes(boxes), "bbox")
    reference.params.useCats = 0
    reference.params.iouThrs = np.array([min_iou])
    reference.params.areaRng = [[0, 1e9]]
    reference.params.areaRngLbl = ["all"]
    reference.params.maxDets = [cfg.AGSSP.BOXES.MAX_BOXES]
    reference.evaluate()
    ignored, matched = (
        np.concatenate([one[key][0] > 0 for one in reference.evalImgs if one])
        for key in ("dtIgnore", "dtMatches")
    )
    total = found.all_images
    assert (total.images, total.boxes, total.ignored) == (30, len(boxes), ignored.sum())
    assert 0 < total.correct == (matched & ~ignored).sum()
    assert total.ignored > 0
    assert found.all_labels.labels == sum(
        not one["iscrowd"] for one in truth.dataset["annotations"]
    )


def test_two_boxes_cannot_be_right_about_one_label():
    iou = np.array([[0.6, 0.7], [0.6, 0.9], [0.6, 0.9]])
    correct, ignored = match_boxes(iou, np.zeros(2, bool), 0.5)
    assert correct.tolist() == [True, True, False], "the best box takes its best label"
    assert not ignored.any()


def test_a_label_is_hit_at_its_border_but_not_beside(cfg, write_maps, tmp_path):
    maps = write_maps(tmp_path / "maps", {"a.png": blocks((10, 10, 20, 20, 1.0))})
    at_border, beside = label(15, 0, 80, 15), label(16, 0, 80, 40, "dent")
    path = write_labels(tmp_path / "labels.json", {"a.png": [at_border, beside]})
    (found,) = judge(cfg, (maps, path), thresholds=()).thresholds
    assert (found.classes["crack"].hit, found.classes["dent"].hit) == (1, 0)


def test_images_without_any_label(cfg, write_maps, tmp_path):
    """There is nothing to find, and every box is wrong."""
    maps = write_maps(
        tmp_path / "maps", {"a.png": blocks((10, 10, 20, 20, 1.0)), "b.png": blocks()}
    )
    path = write_labels(tmp_path / "labels.json", {"a.png": [], "b.png": []})
    evaluation = judge(cfg, (maps, path), thresholds=())
    (found,) = evaluation.thresholds
    assert (found.all_images.precision, found.all_images.hit_precision) == (0, 0)
    assert found.all_labels.recall is None
    row = format_evaluation(evaluation).splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("0.5*", "0.000", "-", "0.000", "-", "0.500", "0.500"),
    ]


def test_maps_without_any_box(cfg, write_maps, tmp_path):
    maps = write_maps(tmp_path / "maps", {"a.png": blocks()})
    path = write_labels(tmp_path / "labels.json", {"a.png": [label(1, 1, 9, 9)]})
    (found,) = judge(cfg, (maps, path), thresholds=()).thresholds
    assert found.all_images.precision is None
    assert (found.all_labels.recall, found.all_images.without_boxes) == (0, 1)


def test_tables(cfg, known):
    evaluation = judge(cfg, known, thresholds=(0.25, 0.75))
    overview, classes, hits, sources, notes = format_evaluation(evaluation).split("\n\n")
    header = [cell.strip() for cell in overview.splitlines()[0].split("|")[1:-1]]
    assert header[:3] == ["threshold", "precision, IoU 0.5", "recall, IoU 0.5"]
    for table, names in ((classes, CLASSES), (hits, CLASSES), (sources, ("a", "b"))):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert lines[0][2:] == ["0.25", "0.5*", "0.75"]
        assert tuple(line[0] for line in lines[2:]) == names
    assert "that are not in the labels' json, left out: 1." in notes
    assert "whose boxes are not known, left out: 1." in notes


def test_the_same_boxes_from_a_file(cfg, known, tmp_path):
    folder, labels = known
    path = tmp_path / "boxes.json"
    write_coco(path, pseudo_boxes_as_coco(cfg, folder, progress=False))
    by_file = evaluate_scored_boxes(path, labels, thresholds=(0.75,), progress=False)
    by_maps = judge(cfg, known, thresholds=())
    everything, surer = by_file.thresholds
    assert (everything.threshold, everything.configured) == (0.0, True)
    assert everything.classes == by_maps.configured.classes
    assert everything.sources == by_maps.configured.sources
    assert (by_file.unknown_images, by_file.unseen_images) == (1, 1)
    assert by_file.labelled_area == by_maps.labelled_area
    # Of scores .9, .8, .7 and .6 in the images with labels.
    assert surer.all_images.boxes == 2
    assert surer.all_images.images == 3


def test_order_of_scores_and_boxes_without_one(tmp_path):
    """The surer of two boxes is the one that is right; one without a score counts at every
    threshold."""
    labels = write_labels(tmp_path / "labels.json", {"a/1.png": [label(0, 0, 10, 10)]})
    sure = {"score": 0.9} | label(0, 0, 10, 10)
    unsure = {"score": 0.2} | label(0, 0, 10, 9)
    path = write_labels(tmp_path / "boxes.json", {"a/1.png": [unsure, sure, label(30, 0, 40, 9)]})
    found = evaluate_scored_boxes(path, labels, thresholds=(0.5,), progress=False)
    assert [one.all_images.boxes for one in found.thresholds] == [3, 2]
    assert [one.all_images.correct for one in found.thresholds] == [1, 1]


def test_a_file_of_other_images_or_without_sizes(tmp_path):
    labels = write_labels(tmp_path / "labels.json", {"a/1.png": [label(0, 0, 10, 10)]})
    others = write_labels(tmp_path / "boxes.json", {"a/2.png": [label(0, 0, 10, 10)]})
    with pytest.raises(ValueError, match=r"None of the 1 images of .*boxes\.json is in"):
        evaluate_scored_boxes(others, labels, progress=False)
    content = json.loads(labels.read_text())
    del content["images"][0]["height"]
    others.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"boxes\.json: the image a/1\.png has no height"):
        evaluate_scored_boxes(others, labels, progress=False)


def test_json(cfg, known):
    content = json.loads(json.dumps(as_json(judge(cfg, known, thresholds=()))))
    (found,) = content["thresholds"]
    assert found["configured"]
    expected = {"labels": 2, "found": 0, "hit": 1, "recall": 0.0, "hit_recall": 0.5}
    assert found["classes"]["dent"] == expected
    assert found["all_images"]["precision"] == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thresholds": (0.5, 1.0)}, r"\[0, 1\), got \[0\.5, 1\.0\]"),
        ({"thresholds": (float("nan"),)}, r"\[0, 1\), got \[nan\]"),
        ({"min_iou": 0.0}, r"\(0, 1\], got 0\.0"),
    ],
)
def test_bad_settings(cfg, known, settings, message):
    with pytest.raises(ValueError, match=message):
        judge(cfg, known, **settings)


def test_no_image_matches(cfg, known, tmp_path):
    path = write_labels(tmp_path / "other.json", {"q.png": [label(1, 1, 2, 2)]})
    with pytest.raises(ValueError, match=r"None of the 4 images .*end of their file_name"):
        judge(cfg, (known[0], path))


def test_images_of_another_size(cfg, known, tmp_path):
    path = write_labels(tmp_path / "other.json", {"a/1.png": []}, (WIDTH, HEIGHT))
    with pytest.raises(ValueError, match=r"'a/1\.png' has height 40, but 80 in .*resized"):
        judge(cfg, (known[0], path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[0\] has the bbox \[1, 2, 3\], not four"),
        ({"bbox": [1, 2, 3, float("nan")]}, "nan.*not four"),
        ({"category_id": 7}, "label of category 7, but only the categories"),
    ],
)
def test_bad_labels(cfg, known, change, message):
    content = json.loads(known[1].read_text())
    content["annotations"][0].update(change)
    known[1].write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        judge(cfg, known)


def test_labels_without_a_box(cfg, known):
    content = json.loads(known[1].read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    del content["annotations"][0]["bbox"]
    known[1].write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"Label 1 of .* has no bbox, only a segmentation"):
        judge(cfg, known)
