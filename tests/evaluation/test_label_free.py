"""Figures of map folders without labels, on maps whose figures are known."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from detectron2.config import get_cfg

from detectron2_agssp.boxes import boxes_from_map
from detectron2_agssp.evaluation.label_free import (
    SourceFigures,
    box_agreement,
    format_figures,
    label_free_figures,
)
from detectron2_agssp.maps import MapStore, load_map
from detectron2_agssp.utils.command_line import split_config_pairs
from tests.child_process import run_command

SIZE = (40, 60)


def blocks(*placed):
    """A map (40, 60) of zeros with blocks (y0, x0, y1, x1, value)."""
    anomaly_map = np.zeros(SIZE)
    for y0, x0, y1, x1, value in placed:
        anomaly_map[y0:y1, x0:x1] = value
    return anomaly_map


@pytest.fixture
def cfg():
    """The threshold is 0.5."""
    cfg = get_cfg()
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return cfg


@pytest.fixture
def make_folder(write_maps, tmp_path):
    """A function: maps by image -> folder."""
    return lambda name, maps, **kwargs: write_maps(tmp_path / name, maps, **kwargs)


def judge(cfg, root, **kwargs):
    return label_free_figures(cfg, root, progress=False, **kwargs)


@pytest.fixture
def known(make_folder):
    """One block that stays, one that is whole at 0.45 and half as wide at 0.55, and an image that
    has a box at 0.45 only."""
    maps = {
        "a/1.png": blocks((5, 10, 15, 30, 0.95)),
        "a/2.png": blocks((5, 10, 15, 20, 0.75), (5, 20, 15, 30, 0.52)),
        "b/3.png": blocks((20, 0, 40, 30, 0.48)),
        "b/4.png": blocks(),
    }
    scores = {"a/1.png": 3.0, "a/2.png": 1.0, "b/3.png": -1.0, "b/4.png": 0.5}
    return make_folder("known", maps, scores=scores)


def test_known_figures(cfg, known):
    found = judge(cfg, known)
    assert (found.images, found.threshold, found.delta) == (4, 0.5, 0.05)
    assert found.share_with_boxes == 0.5
    assert found.boxes_per_image == 0.5
    assert found.box_coverage == pytest.approx(2 * 200 / 2400 / 4)
    assert found.cell_coverage == found.box_coverage
    assert found.median_box_side == pytest.approx(math.sqrt(200 / 2400), abs=5.1e-4)
    assert found.stability_below == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert found.stability_above == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert found.stability == pytest.approx((0.75 + 0.875) / 2)
    assert found.sources == {"a": SourceFigures(2, 1.0, 2.0), "b": SourceFigures(2, 0.0, -0.25)}
    shares = [0.75, 0.75, 0.75, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert found.curve == tuple(zip(np.arange(1, 10) / 10, shares, strict=True))


def test_coverage_counts_overlapping_boxes_once_and_cells_on_their_own_grid(cfg, make_folder):
    """Of an L around a block, whose boxes overlap; the image is twice as large as the map."""
    anomaly_map = blocks((2, 2, 30, 4, 1), (28, 2, 30, 40, 1), (10, 10, 20, 20, 1))
    root = make_folder("maps", {"1.png": anomaly_map}, sizes={"1.png": (80, 120)})
    found = judge(cfg, root)
    assert found.boxes_per_image == 2
    assert found.box_coverage == pytest.approx(28 * 38 / 2400)
    assert found.cell_coverage == pytest.approx((28 * 2 + 36 * 2 + 100) / 2400)


def test_curve_and_stability_are_what_the_boxes_of_each_threshold_say(cfg, make_folder):
    """The curve is found by bisection; here by every threshold, on maps of many components."""
    rng = np.random.default_rng(0)
    maps = {f"{number}.png": rng.random((9, 14)) ** number for number in range(1, 9)}
    sizes = {image: (100 + 9 * i, 50 + 31 * i) for i, image in enumerate(maps)}
    root = make_folder("maps", maps, sizes=sizes)
    store = MapStore(root)

    def boxes_at(threshold):
        return [
            boxes_from_map(load_map(root / one["map"]), one["height"], one["width"], threshold)[0]
            for one in store.entries()
        ]

    thresholds = [0.9, 0.05, 0.35, 0.99, 0.5]
    found = judge(cfg, root, thresholds=thresholds, delta=0.2)
    for threshold, share in found.curve:
        assert share == np.mean([len(boxes) > 0 for boxes in boxes_at(threshold)])
    assert [threshold for threshold, _ in found.curve] == sorted(thresholds)
    now, below, above = boxes_at(0.5), boxes_at(0.3), boxes_at(0.7)
    assert found.stability_below == pytest.approx(np.mean(list(map(box_agreement, now, below))))
    assert found.stability_above == pytest.approx(np.mean(list(map(box_agreement, now, above))))
    assert found.boxes_per_image == np.mean([len(boxes) for boxes in now])


@pytest.mark.parametrize(("threshold", "side"), [(0.02, "below"), (0.98, "above")])
def test_moved_threshold_is_clipped(cfg, known, threshold, side):
    cfg.AGSSP.BOXES.THRESHOLD = threshold
    found = judge(cfg, known)
    # At 0.0 the boxes are those of 0.02; at 1.0 there are none, as at 0.98.
    assert getattr(found, f"stability_{side}") == 1


def test_box_agreement():
    none = np.zeros((0, 4), np.float32)
    one = np.array([[0, 0, 10, 20]], np.float32)
    half = np.array([[0, 0, 10, 10]], np.float32)
    far = np.array([[50, 50, 60, 70]], np.float32)
    both = np.concatenate([one, far])
    assert box_agreement(none, none) == box_agreement(both, both[::-1]) == 1
    assert box_agreement(none, one) == box_agreement(one, none) == box_agreement(one, far) == 0
    assert box_agreement(one, half) == box_agreement(half, one) == 0.5
    # One's partner is there in full; of both, only one has a partner.
    assert box_agreement(one, both) == box_agreement(both, one) == 0.75


def test_one_image_without_boxes(cfg, make_folder):
    found = judge(cfg, make_folder("maps", {"1.png": blocks()}))
    assert found.images == 1
    assert found.median_box_side is None
    assert (found.share_with_boxes, found.boxes_per_image, found.box_coverage) == (0, 0, 0)
    assert found.stability == 1
    assert "-" in format_figures([found])


def test_threshold_is_that_of_the_config(cfg, known):
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "mean_max"
    expected = np.mean([load_map(known / one["map"]).max() for one in MapStore(known).entries()])
    for max_images in (0, 1):
        found = judge(cfg, known, max_images=max_images)
        assert found.threshold == pytest.approx(expected - 0.1)


def test_sample_is_seeded_and_the_same_for_all_folders(cfg, make_folder):
    rng = np.random.default_rng(0)
    # Powers of two, so that the mean score tells which images were chosen.
    names = sorted(f"{number}.png" for number in range(40))
    scores = {name: 2.0 ** int(name[:-4]) for name in names}
    first, second = (
        make_folder(folder, {name: rng.random((4, 6)) for name in names}, scores=scores)
        for folder in ("first", "second")
    )

    def chosen(root, seed=0, count=5):
        found = judge(cfg, root, max_images=count, seed=seed)
        assert found.images == min(count, 40)
        return found.sources["images"].mean_score

    assert chosen(first) == chosen(second) != chosen(first, seed=1)
    assert chosen(first, count=100) == pytest.approx(np.mean(list(scores.values())))


@pytest.mark.parametrize("mode", ["fixed", "mean_max"])
def test_no_images(cfg, tmp_path, mode):
    cfg.AGSSP.BOXES.THRESHOLD_MODE = mode
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match="is empty: there are no maps"):
        judge(cfg, tmp_path)


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_score_that_is_no_number(cfg, make_folder, score):
    root = make_folder("maps", {"1.png": blocks()}, scores={"1.png": score})
    with pytest.raises(ValueError, match=r"'1.png' has score (nan|inf|None).*again"):
        judge(cfg, root)


def test_map_with_nan(cfg, make_folder):
    root = make_folder("maps", {"1.png": blocks() * np.nan})
    with pytest.raises(ValueError, match=r"1\.png\.npy' has values from nan"):
        judge(cfg, root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta": 0}, r"delta must be in \(0, 1\), got 0"),
        ({"delta": 1.5}, "got 1.5"),
        ({"thresholds": [0.5, 1.0]}, r"thresholds must be in \[0, 1\), got \[0.5, 1.0\]"),
        ({"max_images": -1}, "max_images must be 0 .*got -1"),
    ],
)
def test_bad_arguments(cfg, known, arguments, message):
    with pytest.raises(ValueError, match=message):
        judge(cfg, known, **arguments)


def test_no_folder(cfg, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent has no manifest\.jsonl"):
        judge(cfg, tmp_path / "absent")


def test_folder_whose_name_is_a_number(cfg, make_folder):
    root = make_folder("1", {"007/1.png": blocks((5, 5, 20, 20, 1))})
    table = format_figures([dataclasses.replace(judge(cfg, root), map_root="1e3")])
    assert table.count("| 1e3 ") == 3
    assert "| 007 " in table


def test_pairs_between_folders():
    arguments = ["a", "AGSSP.BOXES.MARGIN", "0.2", "b.c", "MODEL.DEVICE", "cpu", "Maps.D"]
    others, pairs = split_config_pairs(arguments)
    assert others == ["a", "b.c", "Maps.D"]
    assert pairs == ["AGSSP.BOXES.MARGIN", "0.2", "MODEL.DEVICE", "cpu"]
    assert split_config_pairs(["a", "AGSSP.X"]) == (["a"], ["AGSSP.X"])


@pytest.mark.parametrize("order", ["folders first", "pairs first", "between"])
def test_tool(known, make_folder, tmp_path, order):
    other = make_folder("other", {"a/2.png": blocks((5, 10, 15, 30, 1)), "b/3.png": blocks()})
    pairs = ["AGSSP.BOXES.THRESHOLD_MODE", "fixed", "AGSSP.BOXES.THRESHOLD", "0.4"]
    arguments = {
        "folders first": [known, other, *pairs],
        "pairs first": [*pairs, known, other],
        "between": [known, *pairs, "--seed", 3, other],
    }[order]
    output = tmp_path / "table.json"
    done = run_command("compare", *arguments, "--output", output, output=tmp_path)
    assert done.code == 0, done.stderr
    written = json.loads(output.read_text())
    assert [one["threshold"] for one in written["folders"]] == [0.4, 0.4]
    assert written["folders"][0]["share_with_boxes"] == 0.75
    assert written["agreement"][0]["images_common"] == 2
    for heading in ("stability +", "share with boxes, at", "mean score", "score rank corr."):
        assert heading in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], r"error: absent has no manifest\.jsonl"),
        (["absent", "AGSSP.BOXES.MARGINS", "1"], "error: .*AGSSP.BOXES.MARGINS"),
        (["AGSSP.BOXES.MARGIN", "1"], "No map folder is named"),
    ],
)
def test_errors_of_the_tool(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run_command("compare", *arguments, output=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
