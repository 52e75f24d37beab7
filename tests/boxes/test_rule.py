"""The one rule from AGSSP.BOXES to boxes: everything that trains on, exports, draws or judges boxes
has the same ones, to the bit."""

from dataclasses import astuple

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.boxes.coco_export import pseudo_boxes_as_coco
from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.boxes.threshold import box_threshold
from detectron2_agssp.data import PseudoBoxMapper, register_unlabeled
from detectron2_agssp.evaluation import pseudo_boxes
from detectron2_agssp.evaluation.label_free import label_free_figures
from detectron2_agssp.io.files import write_json
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.reports import map_panels
from detectron2_agssp.reports.folder_summary import summarize_map_folder

# (height, width): smaller and larger than the maps, and odd in proportion.
SIZES = [(61, 97), (200, 300), (128, 31), (5, 7), (333, 111)]


@pytest.fixture
def folder(write_maps, tmp_path):
    """Maps of noise at a threshold where every pixel's rounding may decide; one of them is flat."""
    rng = np.random.default_rng(0)
    maps, sizes = {}, {}
    for number, size in enumerate(SIZES):
        name = f"{'ab'[number % 2]}/{number}.png"
        maps[name], sizes[name] = rng.random((9 + number, 14)), size
    maps["a/flat.png"], sizes["a/flat.png"] = np.zeros((4, 4)), (40, 50)
    for name, size in sizes.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (90, 90, 90)).save(path)
    root = write_maps(tmp_path / "maps", maps, sizes)
    write_json(root / "scorer.json", {"image_root": str(tmp_path / "images")})
    return root


@pytest.fixture(params=[0.0, 0.7], ids=["components", "peaks"])
def cfg(tiny_cfg, request):
    tiny_cfg.AGSSP.BOXES.MARGIN = 0.3
    tiny_cfg.AGSSP.BOXES.EXTENT = request.param
    return tiny_cfg


@pytest.fixture
def expected(cfg, folder):
    """Image -> (boxes, scores) of the rule."""
    store, rule = MapStore(folder), BoxRule.from_config(cfg, folder)
    return {
        entry["image"]: rule(
            load_map(folder / entry["map"]), entry["height"], entry["width"], entry["source"]
        )
        for entry in store.entries()
    }


def test_there_is_something_to_compare(expected):
    counts = {name: len(boxes) for name, (boxes, _) in expected.items()}
    assert sum(counts.values()) > len(SIZES)
    assert counts["a/flat.png"] == 0


def test_mapper_trains_on_them(cfg, folder, expected, tmp_path, empty_catalogs):
    register_unlabeled("noise", tmp_path / "images", folder)
    mapper = PseudoBoxMapper(augmentations=[], rules=BoxRule.from_config(cfg, folder))
    dicts = DatasetCatalog.get("noise_boxes")
    assert len(dicts) == len(expected)
    for sample in dicts:
        boxes, scores = expected[sample["image_id"]]
        instances = mapper(sample)["instances"]
        np.testing.assert_array_equal(instances.gt_boxes.tensor.numpy(), boxes)
        np.testing.assert_array_equal(instances.gt_scores.numpy(), scores)


def test_export_writes_them(cfg, folder, expected):
    content = pseudo_boxes_as_coco(cfg, folder, progress=False)
    written = {image["file_name"]: [] for image in content["images"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        written[names[annotation["image_id"]]].append([x, y, x + width, y + height])
    assert written == {name: boxes.tolist() for name, (boxes, _) in expected.items()}


def test_panels_draw_them(cfg, folder, expected, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        map_panels,
        "anomaly_panel",
        lambda image, anomaly_map, boxes, scores, **_: drawn.append((boxes, scores)) or image,
    )
    map_panels.write_map_panels(cfg, folder, tmp_path / "panels", num=None, progress=False)
    assert len(drawn) == len(expected)
    for (boxes, scores), wanted in zip(drawn, expected.values(), strict=True):
        np.testing.assert_array_equal(boxes, wanted[0])
        np.testing.assert_array_equal(scores, wanted[1])


def test_evaluation_judges_them(cfg, folder, expected, tmp_path):
    """With the boxes as labels, all are right, at an IoU of one."""
    content = pseudo_boxes_as_coco(cfg, folder, progress=False)
    write_json(tmp_path / "labels.json", content)
    evaluation = pseudo_boxes.evaluate_pseudo_boxes(
        cfg, folder, tmp_path / "labels.json", thresholds=(), min_iou=1.0, progress=False
    )
    (figures,) = evaluation.thresholds
    assert figures.all_images.boxes == sum(len(boxes) for boxes, _ in expected.values())
    assert figures.all_images.precision == figures.all_labels.recall == 1


def test_summaries_count_them(cfg, folder, expected):
    count = sum(len(boxes) for boxes, _ in expected.values())
    assert summarize_map_folder(cfg, folder, progress=False).boxes.boxes == count
    figures = label_free_figures(cfg, folder, progress=False)
    assert figures.boxes_per_image == pytest.approx(count / len(expected))


def test_a_map_at_the_size_of_its_image(folder, cfg, expected):
    rule = BoxRule.from_config(cfg, folder)
    for entry in MapStore(folder).entries():
        size = entry["height"], entry["width"]
        full = resize_map(load_map(folder / entry["map"]), *size)
        for left, right in zip(rule(full, *size), expected[entry["image"]], strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("MARGIN", {"mode": "mean_max", "margin": 0.2}),
        ("QUANTILE", {"mode": "quantile", "quantile": 0.9}),
        ("THRESHOLD", {"mode": "fixed", "threshold": 0.3}),
    ],
)
def test_every_key_counts(folder, tiny_cfg, key, settings):
    mode, value = settings.values()
    pairs = ["THRESHOLD_MODE", mode, key, value, "MAX_BOXES", 3, "NMS_IOU", 0.4, "EXTENT", 0.6]
    pairs[::2] = [f"AGSSP.BOXES.{name}" for name in pairs[::2]]
    tiny_cfg.merge_from_list(pairs)
    rule = BoxRule.from_config(tiny_cfg, folder)
    assert astuple(rule) == (box_threshold(folder, **settings), 3, 0.4, 0.6)
    same = BoxRule.from_map_folder(folder, **settings, max_boxes=3, nms_iou=0.4, extent=0.6)
    assert rule == same
    assert astuple(rule.at(0.7)) == (0.7, 3, 0.4, 0.6)


def test_thresholds_by_source():
    rule = BoxRule({"line 1": 0.2, "line 2": 0.6})
    half = np.full((10, 20), 0.5)
    assert rule(half, 40, 80, "line 1")[0].tolist() == [[0, 0, 80, 40]]
    assert rule(half, 40, 80, "line 2")[0].shape == (0, 4)
    assert rule.mean_threshold == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no box threshold for the source 'line 3', only for line"):
        rule(half, 40, 80, "line 3")
