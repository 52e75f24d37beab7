"""The report of a map folder, and the figures in it."""

import functools
import json
import re

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from markupsafe import Markup

from detectron2_agssp.evaluation.box_statistics import BoxStatistics, covered_area
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.reports import figures
from detectron2_agssp.reports.folder_summary import summarize_map_folder
from detectron2_agssp.reports.map_panels import write_map_panels
from detectron2_agssp.reports.map_report import write_map_report
from detectron2_agssp.reports.recorded_settings import readable_settings
from detectron2_agssp.reports.skipped import read_skipped
from tests.reports.small_map_folder import NAMES, SCORES, make_map_folder
from tests.reports.test_page import Page


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return cfg


@pytest.fixture
def make_folder(tmp_path):
    return functools.partial(make_map_folder, tmp_path)


@pytest.fixture
def folder(make_folder):
    return make_folder(SCORES)


def report(cfg, folder, drawn=False, **options) -> str:
    path = folder.parent / "r.html"
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:  # which takes most of the time
            for name in ("histograms", "lines"):
                patch.setattr(figures, name, lambda *_, **__: Markup())
        write_map_report(cfg, folder, path, progress=False, **options)
    return path.read_text(encoding="utf-8")


def captions(text: str) -> list[str]:
    return re.findall(r"<figcaption>([^<]*), score ", text)


def sizes(summary):
    return [(source.name, len(source.scores)) for source in summary.sources]


def test_summary(cfg, folder):
    summary = summarize_map_folder(cfg, folder, num_examples=2, progress=False)
    assert (summary.num_images, summary.num_sources, summary.rule.threshold) == (6, 3, 0.5)
    assert sizes(summary) == [("b", 3), ("a", 2), ("c", 1)]
    assert summary.sources[1].scores == pytest.approx([0.2, 0.4])
    assert [entry["image"] for entry in summary.best] == ["c/6.png", "b/[5].png"]
    assert [entry["image"] for entry in summary.worst] == ["a/1.png", "a/2.png"]
    assert {entry["image"] for entry in summary.random} == {NAMES[2], NAMES[3]}
    assert summary.score_edges[[0, -1]] == pytest.approx([0.2, 1.2])
    total = sum(summary.score_counts(source) for source in summary.sources)
    assert total.sum() == 6
    assert total[0] == total[-1] == 1

    # The maps are resized bilinearly, so the boxes are a little wider or narrower than the half.
    boxes = summary.boxes
    assert (boxes.images, boxes.with_boxes, boxes.boxes) == (6, 4, 4)
    assert boxes.covered == pytest.approx(4 * 0.5, abs=0.2)
    assert boxes.side_quantile(0.5) == pytest.approx(np.sqrt(0.5), abs=0.04)
    assert boxes.maxima.sum() == 6
    assert boxes.cells.sum() == 6 * 24


def test_small_sources_are_summed(cfg, folder):
    summary = summarize_map_folder(cfg, folder, max_sources=1, progress=False)
    assert sizes(summary) == [("b", 3), ("2 other sources", 3)]
    assert summary.boxes.images == 6


def test_samples_depend_on_the_seed_only(cfg, folder):
    def boxes(seed):
        summary = summarize_map_folder(
            cfg, folder, num_examples=1, seed=seed, max_images=2, progress=False
        )
        assert summary.boxes.images == 2
        return [entry["image"] for entry in summary.random], summary.boxes.maxima.tolist()

    assert boxes(0) == boxes(0)
    assert len({str(boxes(seed)) for seed in range(8)}) > 1


def test_report_says_what_the_folder_is(cfg, folder):
    text = report(cfg, folder, drawn=True)
    for part in ("memory", "m0", "256 pixels a side", "raw score 2 becomes 0, 5 becomes 1", "f00"):
        assert part in text, part
    assert str(folder.parent / "images") in text
    assert "AGSSP.BOXES.THRESHOLD (here 0.5)" in text
    assert "register_unlabeled" in text
    assert "66.7 %" in text, "4 of 6 images have a box"
    assert "no skipped.jsonl" in text
    assert "seeded sample" not in text
    assert "is not there" not in text
    for command in (
        f"agssp evaluate boxes {folder} LABELS.json",
        f"agssp report {folder} OUT AGSSP.BOXES.THRESHOLD 0.4",
        f"agssp pretrain {folder.parent / 'images'} OUT",
        "agssp train --config-file agssp://agdp/faster_rcnn_lite0_fpn.yaml DATASETS.TRAIN "
        "&#34;(&#39;agssp_NAME_boxes&#39;,)&#34;",
    ):
        assert command in text
    # Nothing that is not inside the file; names are text, not markup.
    Page(text)
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "<b>" not in text
    assert "b/&lt;b&gt;Öl &amp; 划痕.png" in text
    # Each image once, although there are fewer than panels.
    assert len(captions(text)) == len(set(captions(text))) == 6
    assert text.count("<svg") == 4
    assert report(cfg, folder, drawn=True) == text


@pytest.mark.parametrize(
    ("name", "features", "model", "weights"),
    [
        ("mahalanobis", "timm", "lite0", "random"),
        ("mutual", "clip", "ViT", "laion"),
        ("kead", "timm", "ViT", "laion"),
        ("memory", "detectron2", "the config's MODEL.BACKBONE", None),
    ],
)
def test_settings_are_those_of_the_scorers_network(name, features, model, weights):
    settings = {"NAME": name, "FEATURES": features, "MODEL": "lite0", "WEIGHTS": "", "SEED": 3}
    settings["KEAD"] = {"MODEL": "ViT", "PRETRAINED": "laion"}
    shown = readable_settings({"scorer": name, "SCORER": settings, "defects": ["dent", "rust"]})
    assert (shown["scorer"], shown["model"], shown.get("weights")) == (name, model, weights)
    assert shown["SEED"] == "3"
    assert shown["described defects"] == "dent, rust"
    assert "lite0" not in shown.values() or features == "timm"
    assert readable_settings({}) == {"scorer": "unknown"}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"a/1.png": 0.9, "a/2.png": 0.8, "a/3.png": 0.7, "a/4.png": 0.3}, []),
        ({"a/1.png": 0.9, "a/2.png": 0.3}, ["50 % of the images have no box"]),
    ],
)
def test_doubts(cfg, make_folder, scores, expected):
    warned = re.findall(r"<strong>Warning\.</strong> ([^.]*)", report(cfg, make_folder(scores)))
    assert [text[: len(start)] for text, start in zip(warned, expected, strict=True)] == expected


def test_boxes_that_cover_the_images(cfg, make_folder):
    folder = make_folder({"a/1.png": 0.9, "b/<2>.png": 0.8})
    for path in folder.rglob("*.npy"):
        np.save(path, np.linspace(0.8, 0.9, 24, dtype=np.float16).reshape(4, 6))
    assert "Boxes cover 100 % of an image on average" in report(cfg, folder)


def test_report_of_a_sample(cfg, folder):
    text = report(cfg, folder, max_images=3, num_panels=1)
    assert "a seeded sample of 3 of the 6 images" in text
    assert len(captions(text)) == 3


@pytest.mark.parametrize(
    ("mode", "part"),
    [
        ("mean_max", r"mean of the maps' maxima, 0\.666\d, minus AGSSP\.BOXES\.MARGIN 0\.1"),
        ("quantile", r"the quantile 0\.7 of all map values"),
    ],
)
def test_threshold_modes_are_explained(cfg, folder, mode, part):
    cfg.AGSSP.BOXES.THRESHOLD_MODE = mode
    cfg.AGSSP.BOXES.QUANTILE = 0.7
    assert re.search(part, report(cfg, folder))


def test_skipped_files_are_grouped(cfg, folder):
    lines = [
        {"image": f"x/{number}.jpg", "reason": f"Bad: '/d/x/{number}.jpg' ({number} bytes) <i>"}
        for number in range(60)
    ]
    lines.append({"image": "y.jpg", "reason": "the scorer's map is not finite"})
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"image": "cut'
    (folder / "skipped.jsonl").write_text(text)
    skipped = read_skipped(folder, num_listed=10)
    assert skipped.count == 62
    assert next(iter(skipped.reasons)) == "Bad: … (# bytes) <i>"
    assert [count for count, _ in skipped.reasons.values()] == [60, 1, 1]
    assert skipped.first[1] == ("x/1.jpg", "Bad: '/d/x/1.jpg' (1 bytes) <i>")
    assert len(skipped.first) == 10
    text = report(cfg, folder)
    assert "Bad: … (# bytes) &lt;i&gt;" in text
    assert "The first 50 of 62" in text


def test_nothing_skipped(cfg, folder):
    (folder / "skipped.jsonl").write_text("")
    assert "None: every image has a map." in report(cfg, folder)


@pytest.mark.parametrize("recorded", [True, False])
def test_missing_images_are_said_to_be_missing(cfg, make_folder, recorded):
    folder = make_folder({"a/1.png": 0.9, "a/2.png": 0.8}, recorded=recorded, images=False)
    text = report(cfg, folder)
    assert text.count("(the image is not there)") >= 2
    assert "--image-root" in text
    assert ("no scorer.json" in text) is not recorded


def test_images_that_moved_or_changed(cfg, folder, tmp_path):
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "moved/a/1.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "moved/a/2.png"), np.zeros((30, 30), np.uint8))
    text = report(cfg, folder, image_root=tmp_path / "moved")
    assert "is not an image that Pillow or OpenCV can decode" in text
    assert "30 x 30 pixels, its map was made of 60 x 40" in text
    assert "is not there" not in text


def test_one_image_without_boxes(cfg, make_folder):
    text = report(cfg, make_folder({"1.png": 0.1}))
    assert captions(text) == ["1.png"]
    assert "0.0 %" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_panels": -1}, ValueError, "num_examples >= 0"),
        ({"max_images": 0}, ValueError, "max_images >= 1"),
        ({"image_root": "absent"}, FileNotFoundError, "Image folder 'absent' does not exist"),
    ],
)
def test_wrong_arguments(cfg, folder, options, error, message):
    with pytest.raises(error, match=message):
        report(cfg, folder, **options)


def test_bad_folders(cfg, make_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest\.jsonl"):
        report(cfg, tmp_path / "absent")
    with pytest.raises(ValueError, match=r"manifest of .* is empty"):
        report(cfg, make_folder({}))
    with pytest.raises(ValueError, match=r"manifest of .* is empty"):
        write_map_panels(cfg, tmp_path / "maps", tmp_path / "out")
    folder = make_folder({"a/1.png": 0.9, "a/2.png": 0.8})
    (folder / "maps/a/2.png.npy").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"2\.png\.npy' is not a readable"):
        report(cfg, folder)
    (folder / "maps/a/2.png.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.png\.npy' is missing"):
        report(cfg, folder)


@pytest.mark.parametrize("score", [float("nan"), None, "1"])
def test_scores_that_are_no_numbers(cfg, folder, score):
    entry = next(MapStore(folder).entries())
    MapStore(folder).append([{**entry, "score": score}])
    with pytest.raises(ValueError, match=r"image 'a/1\.png' has score .*expected a finite number"):
        report(cfg, folder)


def test_covered_area_is_that_of_the_union():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 10):
        corners = rng.integers(0, 20, (count, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1) + 1], axis=1).astype(np.float32)
        painted = np.zeros((21, 21), bool)
        for x1, y1, x2, y2 in boxes.astype(int):
            painted[y1:y2, x1:x2] = True
        assert covered_area(boxes.reshape(-1, 4)) == painted.sum()


def test_box_sides_of_nothing():
    assert BoxStatistics().side_quantile(0.5) is None
