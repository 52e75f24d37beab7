"""A verdict on pseudo-boxes: with labels of the maps' images or of others, and without labels."""

import re
import shutil

import numpy as np
import pytest
from detectron2.config import get_cfg

from detectron2_agssp.evaluation import judge_boxes, verdict
from detectron2_agssp.evaluation.box_statistics import BoxStatistics
from detectron2_agssp.evaluation.pseudo_boxes import evaluate_pseudo_boxes
from detectron2_agssp.io.files import write_json
from detectron2_agssp.maps import generate_anomaly_maps

HEIGHT, WIDTH = 40, 80


@pytest.fixture
def cfg():
    """The threshold is 0.5."""
    cfg = get_cfg()
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return cfg


def write_labels(path, boxes, size=(HEIGHT, WIDTH)):
    """``boxes``: file_name -> XYWH of its labels."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "dent"}]}
    for image_id, (name, placed) in enumerate(boxes.items()):
        sides = dict(zip(("height", "width"), size, strict=True))
        content["images"].append({"id": image_id, "file_name": name, **sides})
        for box in placed:
            number = len(content["annotations"])
            ids = {"id": number, "image_id": image_id, "category_id": 1}
            content["annotations"].append({**ids, "bbox": box, "area": box[2] * box[3]})
    write_json(path, content)
    return path


def judge(cfg, maps, labels, **options):
    return judge_boxes(cfg, maps, labels, progress=False, **options)


@pytest.fixture
def place(write_maps, tmp_path):
    """A function: of 20 images, the right half a label and ``hits`` boxes on it, others beside."""

    def make(hits, count=20):
        maps = {}
        for number in range(count):
            anomaly_map = np.zeros((HEIGHT, WIDTH))
            x = 50 if number < hits else 10
            anomaly_map[10:30, x : x + 20] = 0.9
            maps[f"{number}.png"] = anomaly_map
        half = [WIDTH // 2, 0, WIDTH // 2, HEIGHT]
        labels = write_labels(tmp_path / "labels.json", {name: [half] for name in maps})
        return write_maps(tmp_path / "maps", maps), labels

    return make


@pytest.mark.parametrize(
    ("hits", "better", "words"),
    [
        (
            10,
            False,
            r"boxes no better than random \(0\.500 against 0\.500\): run the second round first, "
            "or do not train on this",
        ),
        (13, False, r"20 boxes in 20 .* too few to tell .* \(0\.650 against 0\.500\): label more"),
        (20, True, r"boxes better than random \(1\.000 against 0\.500\); at an IoU of 0\.5"),
        (3, False, r"no better than random \(0\.150 against"),
    ],
)
def test_boxes_against_chance(cfg, place, hits, better, words):
    judged = judge(cfg, *place(hits))
    assert judged.better == better
    assert judged.hit_precision == hits / 20
    assert judged.chance == 0.5
    assert (judged.precision, judged.recall) == (0, 0), "the boxes are much smaller"
    assert re.search(words, judged.sentence), judged.sentence


def test_many_boxes_that_are_a_little_better(cfg, place):
    """What is surely no chance may still be of little use."""
    judged = judge(cfg, *place(88, count=150))
    assert judged.better
    assert "hardly better than random (0.587 against 0.500)" in judged.sentence


def test_small_defects_that_boxes_find_more_often_than_chance(cfg, write_maps, tmp_path):
    """No second round is advised, whose boxes are worse on such a set."""
    maps, labels = {}, {}
    for number in range(40):
        anomaly_map = np.zeros((HEIGHT, WIDTH))
        anomaly_map[10:20, 50 if number < 6 else 10 : 60 if number < 6 else 20] = 0.9
        maps[f"{number}.png"] = anomaly_map
        # A label of 16 x 10 of 80 x 40 pixels: a twentieth.
        labels[f"{number}.png"] = [[47, 10, 16, 10]]
    labels = write_labels(tmp_path / "labels.json", labels)
    judged = judge(cfg, write_maps(tmp_path / "maps", maps), labels)
    assert judged.better
    assert "3.0 times as often as random ones (0.150 against 0.050)" in judged.sentence
    assert "look at them" in judged.sentence
    assert "run the second round" not in judged.sentence


def test_no_boxes(cfg, place):
    cfg.AGSSP.BOXES.THRESHOLD = 0.95
    judged = judge(cfg, *place(20))
    assert (judged.better, judged.precision, judged.hit_precision) == (False, None, None)
    assert "none of the 20 labelled images has a box at the threshold of 0.950" in judged.sentence


def test_nothing_to_find(cfg, place, tmp_path):
    maps, _ = place(20)
    labels = write_labels(tmp_path / "empty.json", {"1.png": []})
    with pytest.raises(ValueError, match=r"empty\.json and .*maps have in common have no label"):
        judge(cfg, maps, labels)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, image_folder):
    """A map folder of some images, and the others, whose place is another."""
    root = tmp_path_factory.mktemp("fitted")
    shutil.copytree(image_folder, root / "unlabelled")
    (root / "labelled/shots").mkdir(parents=True)
    for name in ("z/b.tif", "z/c.JPG"):
        (root / "unlabelled" / name).rename(root / "labelled/shots" / name[2:])
    (root / "labelled/shots/broken.png").write_bytes(b"no image")
    cfg = get_cfg()
    scorer = cfg.AGSSP.SCORER
    scorer.DEVICE, scorer.WEIGHTS, scorer.CENTER = "cpu", "", True
    scorer.IMAGE_SIZE, scorer.STRIDES, scorer.BATCH_SIZE, scorer.NUM_WORKERS = 64, (8, 16), 2, 0
    generate_anomaly_maps(cfg, root / "unlabelled", root / "maps", progress=False)
    generate_anomaly_maps(
        cfg, root / "labelled", root / "others", fitted_by=root / "maps", progress=False
    )
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "dent"}]}
    for number, name in enumerate(["b.tif", "c.JPG", "broken.png"]):
        content["images"].append({"id": number, "file_name": f"far/shots/{name}"})
        box = {"bbox": [5, 5, 40, 30], "area": 1200, "category_id": 1}
        content["annotations"].append({"id": number, "image_id": number, **box})
    write_json(root / "labels.json", content)
    return root


def test_labelled_images_that_the_folder_does_not_have(fitted):
    """They are scored as by a run with that folder's scorer, and cut at that folder's threshold;
    the config at hand is not the one of the maps."""
    cfg = get_cfg()
    cfg.AGSSP.SCORER.DEVICE = "cpu"
    labels = fitted / "labels.json"
    judged = judge(cfg, fitted / "maps", labels, image_root=fitted / "labelled")
    threshold = judged.evaluation.configured.threshold
    cfg.AGSSP.BOXES.THRESHOLD_MODE, cfg.AGSSP.BOXES.THRESHOLD = "fixed", threshold
    expected = evaluate_pseudo_boxes(cfg, fitted / "others", labels, thresholds=(), progress=False)
    assert judged.evaluation == expected
    assert expected.configured.all_images.images == 2
    assert expected.unseen_images == 1, "what cannot be read is left out"


def test_other_images_need_their_folder(fitted):
    with pytest.raises(ValueError, match=r"None of the 4 images .*maps is in .*--images"):
        judge(get_cfg(), fitted / "maps", fitted / "labels.json")
    with pytest.raises(ValueError, match=r"unlabelled has none of the 3 images of .*labels\.json"):
        judge(get_cfg(), fitted / "maps", fitted / "labels.json", image_root=fitted / "unlabelled")


def test_a_folder_without_a_scorer(cfg, place, image_folder, tmp_path):
    maps, _ = place(1)
    labels = write_labels(tmp_path / "other.json", {"b.tif": [[1, 1, 9, 9]]})
    with pytest.raises(FileNotFoundError, match=r"scorer\.json does not exist"):
        judge(cfg, maps, labels, image_root=image_folder)


@pytest.mark.parametrize(
    ("with_boxes", "side", "doubts"),
    [
        (10, 4, []),
        (7, 4, ["30 % of the images have no box, .*free of defects.*MARGIN"]),
        (0, 4, ["No image has a box"]),
        (10, 8, ["Boxes cover 64 % of an image"]),
        (8, 9, ["Boxes cover 65 %"]),
        (7, 9, ["30 % of the images", "Boxes cover 57 % .*smaller"]),
    ],
)
def test_doubts_without_labels(with_boxes, side, doubts):
    statistics = BoxStatistics()
    for number in range(10):
        boxes = np.array([[0, 0, side, side]] * (number < with_boxes), np.float32).reshape(-1, 4)
        statistics.add(np.zeros((2, 2)), boxes, 10, 10)
    sentences = verdict(statistics)
    assert len(sentences) == len(doubts)
    for sentence, words in zip(sentences, doubts, strict=True):
        assert re.search(words, sentence), sentence


def test_doubts_about_nothing():
    with pytest.raises(ValueError, match="no images"):
        verdict(BoxStatistics())
